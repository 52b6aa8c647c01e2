// What the page's parts share.

/** An element with attributes and children; text is always text, never markup. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null) element.setAttribute(key, value);
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** A span of time that has passed, in words. */
export function ago(ms) {
  const minutes = Math.floor(ms / 60000);
  if (minutes < 1) return "just now";
  if (minutes < 60) return `${minutes} min ago`;
  if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h ago`;
  return `${Math.floor(minutes / 1440)} days ago`;
}

const FRESH_MS = 86400000;

/** A device's last errors with their age; they stand out for a day. */
export function errorsOf(device, nowMs) {
  const ageMs = nowMs - device.errors_ms;
  return device.errors.map((error) =>
    make("p", { class: ageMs < FRESH_MS ? "trouble" : null }, `${error} (${ago(ageMs)})`),
  );
}

const TIMEOUT_MS = 60000; // the server waits at most half a minute for a destination that is tried out

/** Asks the server to do something. Returns its JSON, null where there is none; throws an error in words. */
export async function act(method, path, body = null) {
  const request = {
    method,
    headers: body === null ? {} : { "Content-Type": "application/json" },
    body: body === null ? null : JSON.stringify(body),
    signal: AbortSignal.timeout(TIMEOUT_MS),
  };
  const answer = await fetch(`/api${path}`, request).catch((error) => {
    throw new Error(`The server does not answer (${error.message}). Try again.`);
  });
  if (answer.status === 204) return null;
  const value = await answer.json().catch(() => {
    throw new Error(`Something else than the server answered, with ${answer.status}. Reload the page.`); // such as a proxy
  });
  if (!answer.ok) throw new Error(value.detail);
  return value;
}

/** A button that does something and says beside itself what came of it. */
export function button(label, action) {
  const said = make("span", { class: "hint", role: "status" });
  const element = make("button", { class: "quiet", type: "button" }, label);
  element.addEventListener("click", async () => {
    element.disabled = true;
    said.textContent = " …";
    try {
      said.textContent = ` ${(await action()) ?? ""}`;
    } catch (error) {
      said.textContent = ` ${error.message}`;
    } finally {
      element.disabled = false;
    }
  });
  return make("span", {}, element, said);
}

/** A field with its label: [label, field]. */
export function input(type, label, more = {}) {
  const field = make("input", { type, ...more });
  return [make("label", {}, label, field), field];
}

/** A form that says below what came of it. */
export function form(action, ...children) {
  const said = make("p", { class: "hint", role: "status" });
  const element = make("form", {}, ...children, said);
  element.addEventListener("submit", async (event) => {
    event.preventDefault();
    said.textContent = "…";
    try {
      said.textContent = await action();
    } catch (error) {
      said.textContent = error.message;
    }
  });
  return element;
}

/** Makes `wanted` the children of `place`. What is where it should be is not touched: moving an element would stop its
 *  sound and take the focus away from somebody who types in it. */
export function arrange(place, wanted) {
  const kept = new Set(wanted);
  for (const child of [...place.children]) if (!kept.has(child)) child.remove();
  wanted.forEach((element, index) => {
    if (place.children[index] !== element) place.insertBefore(element, place.children[index] ?? null);
  });
}

/** The cards of a list, by the id of what they show: made once, drawn again each time, forgotten when it is gone. */
export class Cards {
  constructor(place, make) {
    this.place = place;
    this.make = make;
    this.cards = new Map();
  }

  draw(list, ...more) {
    const gone = new Set(this.cards.keys());
    for (const one of list) {
      gone.delete(one.id);
      if (!this.cards.has(one.id)) this.cards.set(one.id, this.make(one));
      this.cards.get(one.id).draw(one, ...more);
    }
    for (const id of gone) this.cards.delete(id);
    arrange(this.place, list.map((one) => this.cards.get(one.id).element));
  }
}
