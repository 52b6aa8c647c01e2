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
  const answer = await fetch(`/api${path}`, {
    method,
    headers: body === null ? {} : { "Content-Type": "application/json" },
    body: body === null ? null : JSON.stringify(body),
    signal: AbortSignal.timeout(TIMEOUT_MS),
  });
  const value = answer.status === 204 ? null : await answer.json();
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
