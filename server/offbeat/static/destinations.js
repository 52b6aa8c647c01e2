// Where the text goes: the destinations with their forms and buttons, and what people decide about a delivery.
import { act, button, make } from "./elements.js";

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

function describe(destination) {
  const words = [destination.recipe];
  if (destination.pending) words.push(`${destination.pending} on the way`);
  if (destination.in_doubt) words.push(`${destination.in_doubt} in doubt`);
  return words.join(" · ");
}

function card(destination) {
  const path = `/destinations/${encodeURIComponent(destination.id)}`;
  const test = async () => {
    const got = await act("POST", `${path}/test`);
    return `${got.delivered ? "arrived" : "failed"}: ${got.error ?? `${got.status} ${got.answer.slice(0, 200)}`}`;
  };
  const remove = () => {
    if (!confirm(`Remove ${destination.name ?? destination.to}? What is on its way there ends.`)) return null;
    return act("DELETE", path);
  };
  return make(
    "section",
    { class: "device" },
    make("h3", {}, destination.name ?? destination.to),
    destination.name ? make("p", {}, destination.to) : null,
    destination.ended ? make("p", { class: "trouble" }, destination.ended) : make("p", {}, describe(destination)),
    make("p", {}, destination.ended ? null : button("Test", test), button("Remove", remove)),
  );
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

let form = null;
let drawn = "";
const list = make("div");

/** Draws the section; what did not change stays as it is, for somebody may be about to press a button. */
export function drawDestinations(place, destinations) {
  if (form === null) {
    form = new Form();
    place.replaceChildren(list, form.element);
  }
  const signature = JSON.stringify(destinations);
  if (signature === drawn) return;
  drawn = signature;
  const none = make("p", { class: "hint" }, "Nowhere: notes stay on this page.");
  list.replaceChildren(...(destinations.length ? destinations.map(card) : [none]));
}
