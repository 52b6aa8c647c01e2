// Where the text goes: the destinations with their forms and buttons, and what people decide about a delivery.
import { act, button, Cards, make } from "./elements.js";

/** What a note's card shows of its deliveries: answers, the question of a doubt, and a way to send again. */
export function decisions(note) {
  return note.deliveries.flatMap((delivery) => {
    const id = encodeURIComponent(delivery.webhook_id);
    const resend = async () => {
      await act("POST", `/deliveries/${id}/resend`);
      return "on its way";
    };
    const answer = delivery.answer ? make("p", { class: "answer" }, delivery.answer) : null;
    if (delivery.state === "in_doubt") {
      const arrived = () => act("POST", `/deliveries/${id}/arrived`);
      return [answer, make("p", {}, button("Send again", resend), button("It arrived", arrived))];
    }
    if (delivery.state === "ended") return [answer, make("p", {}, button("Send again", resend))];
    return [answer];
  });
}

let open = []; // where notes can go: [id, name]

/** Where a note can be sent by hand; what a card shows of it changes with that. */
export const choices = () => open;

/** What sends a note with its text as it is now, once more or for the first time; null where there is nothing to send. */
export function sender(note) {
  if (note.text === null || open.length === 0) return null;
  const place = make(
    "select",
    { "aria-label": "Where to" },
    ...open.map(([id, name]) => make("option", { value: id }, name)),
  );
  const send = async () => {
    await act("POST", `/notes/${encodeURIComponent(note.id)}/send`, { destination: place.value });
    return "on its way";
  };
  if (open.length === 1) return button(`Send to ${open[0][1]}`, send);
  return make("span", {}, button("Send to", send), place);
}

function describe(destination) {
  const words = [destination.recipe];
  if (destination.pending) words.push(`${destination.pending} on the way`);
  if (destination.in_doubt) words.push(`${destination.in_doubt} in doubt`);
  return words.join(" · ");
}

class Card {
  constructor(destination) {
    const path = `/destinations/${encodeURIComponent(destination.id)}`;
    const title = destination.name ?? destination.to;
    const test = async () => {
      const got = await act("POST", `${path}/test`);
      return `${got.delivered ? "arrived" : "failed"}: ${got.error ?? `${got.status} ${got.answer?.slice(0, 200) ?? ""}`}`;
    };
    const remove = () => {
      if (!confirm(`Remove ${title}? What is on its way there ends.`)) return null;
      return act("DELETE", path);
    };
    this.line = make("p");
    this.test = button("Test", test);
    this.element = make(
      "section",
      { class: "device" },
      make("h3", {}, title),
      destination.name ? make("p", {}, destination.to) : null,
      this.line,
      make("div", { class: "actions" }, this.test, button("Remove", remove)),
    );
  }

  draw(destination) {
    this.line.textContent = destination.ended ?? describe(destination);
    this.line.className = destination.ended ? "trouble" : "";
    this.test.hidden = destination.ended !== null;
  }
}

class Form {
  constructor() {
    this.recipe = make("select", { "aria-label": "Kind" });
    this.url = make("input", { type: "text", "aria-label": "URL", required: "" });
    this.about = make("p", { class: "hint" });
    this.fields = make("div");
    this.said = make("p", { class: "hint", role: "status" });
    const form = make(
      "form",
      {},
      this.recipe,
      this.about,
      this.url,
      this.fields,
      make("button", { class: "quiet" }, "Add"),
      this.said,
    );
    this.element = make("details", {}, make("summary", {}, "Add one"), form);
    this.element.addEventListener("toggle", () => this.load());
    this.recipe.addEventListener("change", () => this.show());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.add();
    });
    this.recipes = null;
  }

  async load() {
    if (this.recipes !== null || !this.element.open) return;
    try {
      this.recipes = await act("GET", "/recipes");
    } catch (error) {
      this.said.textContent = error.message;
      return;
    }
    this.recipe.replaceChildren(...this.recipes.map((one) => make("option", { value: one.name }, one.title)));
    this.recipe.value = "webhook";
    this.show();
  }

  show() {
    const recipe = this.recipes.find((one) => one.name === this.recipe.value);
    this.about.textContent = recipe.about;
    this.url.placeholder = recipe.url;
    this.fields.replaceChildren(
      ...Object.entries(recipe.fields).map(([name, field]) =>
        make(
          "label",
          {},
          field.label,
          make("input", { name, type: field.secret ? "password" : "text", autocomplete: "off", value: field.default }),
        ),
      ),
    );
  }

  async add() {
    const inputs = [...this.fields.querySelectorAll("input")];
    const fields = Object.fromEntries(inputs.map((input) => [input.name, input.value]));
    this.said.textContent = "…";
    try {
      const added = await act("POST", "/destinations", { url: this.url.value, recipe: this.recipe.value, fields });
      this.said.textContent = `Added. Its signing secret, shown this once: ${added.secret}`;
      this.url.value = "";
      for (const input of inputs) if (input.type === "password") input.value = "";
    } catch (error) {
      this.said.textContent = error.message;
    }
  }
}

export class Destinations {
  constructor(place) {
    const list = make("div");
    this.none = make("p", { class: "hint" }, "Nowhere: notes stay on this page.");
    this.cards = new Cards(list, (destination) => new Card(destination));
    place.replaceChildren(this.none, list, new Form().element);
  }

  draw(destinations) {
    open = destinations.filter((one) => one.ended === null).map((one) => [one.id, one.name ?? one.to]);
    this.none.hidden = destinations.length > 0;
    this.cards.draw(destinations);
  }
}
