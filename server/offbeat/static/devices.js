// The devices: what they report, what is desired of them (docs/protocol.md, "Settings: the twin"), adding one.
import { ClockFace } from "./clock.js";
import { act, ago, button, Cards, errorsOf, form, input, make } from "./elements.js";

const ORDERS = ["hands", "steps"]; // done once, and not among the settings that a device reports
const LABELS = {
  mode: "Mode",
  timezone: "Time zone",
  morse: "Morse text",
  pattern: "Pattern",
  hold: "Hold",
  hands: "The hands show",
  steps: "Seconds hand",
  gain_db: "Gain of the microphone",
  sleep_after_s: "Deep sleep after",
};

const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

/** A setting as it is desired, or else as the device has it; undefined where neither is known. */
const valueOf = (device, key) => (key in device.desired ? device.desired[key] : device.report?.settings?.[key]);

const revisionOf = (device) => device.report?.revision ?? 0; // how far the device has come

function waitingFor(device) {
  if (device.revision <= revisionOf(device)) return null;
  const has = device.report?.settings ?? {};
  const open = Object.keys(device.desired).filter((key) => ORDERS.includes(key) || !same(device.desired[key], has[key]));
  const names = open.map((key) => LABELS[key] ?? key).join(", ");
  return `Waiting for it to take over${names ? `: ${names}` : " what was set"}.`;
}

/** What is to be said of what is desired: what waits, what was refused, a version that is offered. */
function standing(device) {
  const waits = waitingFor(device);
  const refused = Object.entries(device.report?.refused ?? {});
  const version = device.update_version;
  const failed = device.report?.update_failed;
  return [
    waits && make("p", { class: "waits" }, waits),
    ...refused.map(([key, why]) => make("p", { class: "trouble" }, `It refused ${LABELS[key] ?? key}: ${why}`)),
    failed ? make("p", { class: "trouble" }, `It tried version ${failed} and went back from it.`) : null,
    version && version !== device.report?.version && version !== failed
      ? make("p", { class: "waits" }, `Version ${version} is offered to it.`)
      : null,
  ].filter(Boolean);
}

const bytes = (count) => (count < 1e6 ? `${Math.round(count / 1000)} kB` : `${(count / 1e6).toFixed(1)} MB`);
const span = (ms) => ago(ms).replace(" ago", "").replace("just now", "under a minute");

function battery(report) {
  const words = [];
  if (Number.isInteger(report.battery_mv)) words.push(`${(report.battery_mv / 1000).toFixed(2)} V`);
  if (report.battery_low) words.push("low");
  if (report.usb) words.push("on the cable");
  return words.join(", ");
}

/** What a device says of itself, as far as it does: [term, words]. */
function facts(device, nowMs) {
  const report = device.report ?? {};
  const east = report.utc_offset_s / 3600;
  const free = [];
  if (Number.isInteger(report.flash_free_bytes)) free.push(`${bytes(report.flash_free_bytes)} for notes`);
  if (Number.isInteger(report.memory_free_bytes)) free.push(`${bytes(report.memory_free_bytes)} of memory`);
  return [
    ["Last contact", device.contact_at ? ago(nowMs - Date.parse(device.contact_at)) : "never"],
    ["Battery", battery(report)],
    ["WiFi", Number.isInteger(report.rssi_dbm) ? `${report.rssi_dbm} dBm`.replace("-", "−") : ""],
    ["Free", free.join(", ")],
    ["Running for", Number.isInteger(report.uptime_ms) ? span(report.uptime_ms + nowMs - device.reported_ms) : ""],
    ["Started by", report.reset ?? ""],
    ["Local time", Number.isFinite(east) ? `UTC${east < 0 ? "−" : "+"}${Math.abs(east)} h` : ""],
    ["Firmware", [report.version, report.board].filter(Boolean).join(" on ")],
    ["Name for tools", device.id],
  ].filter(([, words]) => words !== "");
}

/** One setting in a form of its own. It is not redrawn while somebody has changed it and not yet set it. */
class Setting {
  /** `draw`: shows a value, given the device too; `read`: the value of the field's text, or throws what is wrong. */
  constructor(path, key, field, draw, read, hint = null) {
    Object.assign(this, { key, field, drawValue: draw, isTouched: false, revision: null });
    const set = make("button", { class: "quiet", "aria-label": `Set: ${LABELS[key]}` }, "Set");
    const label = make("label", {}, LABELS[key], field);
    this.element = form(() => this.set(path, read), make("div", { class: "setting" }, label, set), hint);
    field.addEventListener("input", () => (this.isTouched = true));
  }

  async set(path, read) {
    const text = this.field.value;
    const { revision } = await act("PATCH", path, { settings: { [this.key]: read(text) } });
    this.revision = revision;
    if (this.field.value === text) this.isTouched = false;
    return "Waiting for it to take it over.";
  }

  draw(device) {
    if (this.revision !== null && revisionOf(device) >= this.revision) {
      const why = device.report.refused?.[this.key];
      this.element.lastElementChild.textContent = why ? `It refused: ${why}` : "Taken over.";
      this.revision = null;
    }
    if (this.isTouched || device.revision < this.revision) return; // the latter: from before it was set
    this.drawValue(valueOf(device, this.key), device);
  }
}

function text(key, more = {}) {
  return make("input", { type: "text", autocomplete: "off", spellcheck: "false", name: key, ...more });
}

function whole(text, least, most, what) {
  const value = Number(text);
  if (text.trim() === "" || !Number.isInteger(value) || value < least || value > most)
    throw new Error(`${what} from ${least} to ${most}, please.`);
  return value;
}

function weights(text) {
  const parts = text.split(/[\s,;]+/).filter(Boolean);
  if (parts.length < 1 || parts.length > 60) throw new Error("1 to 60 numbers, please.");
  return parts.map((part) => whole(part, 1, 10000, "Whole numbers"));
}

function reading(text) {
  if (!/^([01]?\d|2[0-3]):[0-5]?\d:[0-5]?\d$/.test(text.trim())) throw new Error("As 10:08:30, please.");
  return text.trim();
}

function chosen(text) {
  if (text === "") throw new Error("It has not said yet what it can do: wait for its next contact.");
  return text;
}

function modes(path) {
  const field = make("select", { name: "mode" });
  const draw = (mode, device) => {
    const names = [...new Set([...(device.report?.modes ?? []), mode].filter(Boolean))];
    const shown = [...field.options].map((option) => option.value);
    if (!same(names, shown)) field.replaceChildren(...names.map((name) => make("option", { value: name }, name)));
    if (mode) field.value = mode;
  };
  return new Setting(path, "mode", field, draw, chosen);
}

function zones(path, id) {
  const names = make("datalist", { id: `zones-${id}` });
  const field = text("timezone", { list: names.id, placeholder: "Europe/Athens", maxlength: "63" });
  field.addEventListener("focus", () => {
    if (names.children.length) return;
    names.append(...Intl.supportedValuesOf("timeZone").map((name) => make("option", { value: name })));
  });
  const read = (zone) => {
    if (zone.trim() === "") throw new Error("A name such as Europe/Athens, please.");
    return zone.trim();
  };
  const draw = (value, device) => (field.value = device.zone ?? value ?? "");
  return new Setting(path, "timezone", field, draw, read, names);
}

/** Buttons that each desire something at once. Of an order only one may be open: a second one would take its place. */
class Orders {
  constructor(path, key, legend, buttons, hint = null) {
    this.key = key;
    this.revision = 0;
    const send = (value) => async () => {
      this.revision = (await act("PATCH", path, { settings: { [key]: value } })).revision;
      this.said.textContent = "Waiting for it to do that.";
      this.element.disabled = ORDERS.includes(key);
    };
    this.said = make("p", { class: "hint", role: "status" });
    this.element = make(
      "fieldset",
      {},
      make("legend", {}, legend),
      make("div", { class: "actions" }, ...buttons.map(([label, value]) => button(label, send(value)))),
      hint,
      this.said,
    );
  }

  draw(device) {
    const isOpen = revisionOf(device) < this.revision;
    this.element.disabled = ORDERS.includes(this.key) && (isOpen || this.key in device.desired);
    if (this.revision === 0 || isOpen) return;
    this.revision = 0;
    const why = device.report.refused?.[this.key];
    this.said.textContent = why ? `It refused: ${why}` : "Done.";
  }
}

function settingsOf(device, path) {
  const shown = (field) => (value) => (field.value = value ?? "");
  if (device.app === "pendant") {
    const gain = make(
      "select",
      { name: "gain_db" },
      ...[24, 18, 12, 6, 0, -6, -12, -18, -24].map((db) =>
        make("option", { value: db }, `${db > 0 ? "+" : ""}${db} dB`.replace("-", "−")),
      ),
    );
    const sleep = text("sleep_after_s", { inputmode: "numeric" });
    return [
      new Setting(path, "gain_db", gain, (value) => (gain.value = value ?? 0), Number),
      new Setting(
        path, "sleep_after_s", sleep, shown(sleep), (words) => whole(words, 0, 3600, "Whole seconds"),
        make("p", { class: "hint" }, "Seconds of light sleep after the last use; 300 unless it was set."),
      ),
    ];
  }
  const morse = text("morse", { maxlength: "500", placeholder: "offbeat" });
  const pattern = text("pattern", { placeholder: "3, 1, 2" });
  const hands = text("hands", { placeholder: "10:08:30" });
  const spelled = (words) => {
    if (words.trim() === "") throw new Error("A text, please.");
    return words;
  };
  return [
    modes(path),
    new Setting(path, "morse", morse, shown(morse), spelled),
    new Setting(
      path, "pattern", pattern, (value) => (pattern.value = (value ?? []).join(", ")), weights,
      make("p", { class: "hint" }, "How long each tick of the mode “pattern” lasts beside the others."),
    ),
    zones(path, device.id),
    new Orders(path, "hold", "Hold", [["Hold at 12:00:00", "12:00:00"], ["Go on", null]]),
    new Setting(
      path, "hands", hands, (value) => (hands.value = value ?? ""), reading,
      make("p", { class: "hint" }, "What you see on the dial. It then runs to the right time."),
    ),
    new Orders(
      path, "steps", "The seconds hand is off by", [["−2", -2], ["−1", -1], ["+1", 1], ["+2", 2]],
      make("p", { class: "hint" }, "Behind is −, ahead is +. It then corrects that."),
    ),
  ];
}

class PendantFace {
  constructor() {
    this.line = make("p");
    this.element = make("div", {}, this.line);
  }

  draw(device, nowMs) {
    const report = device.report ?? {};
    const waiting = report.waiting ? `${report.waiting} ${report.waiting === 1 ? "note" : "notes"} on the board` : null;
    const contact = device.contact_at ? `last contact ${ago(nowMs - Date.parse(device.contact_at))}` : "never seen yet";
    const low = report.battery_low ? "battery low" : null;
    this.line.textContent = ["pendant", contact, waiting, low].filter(Boolean).join(" · ");
  }

  tick() {}
}

class DeviceCard {
  constructor(device) {
    const path = `/devices/${encodeURIComponent(device.id)}`;
    this.face = device.app === "clock" ? new ClockFace() : new PendantFace();
    this.title = make("h3");
    this.standing = make("div");
    this.settings = settingsOf(device, path);
    this.facts = make("dl");
    const remove = async () => {
      const warning = `Remove ${this.title.textContent}? Its token ends for good. Its notes stay.`;
      if (confirm(warning)) await act("DELETE", path);
    };
    this.element = make(
      "section",
      { class: `device ${device.app}` },
      this.title,
      this.face.element,
      this.standing,
      make(
        "details",
        {},
        make("summary", {}, "Settings", make("span", { class: "visually-hidden" }, ` of ${device.name}`)),
        ...this.settings.map((setting) => setting.element),
      ),
      make(
        "details",
        {},
        make("summary", {}, "About it", make("span", { class: "visually-hidden" }, `: ${device.name}`)),
        this.facts,
        make("div", { class: "actions" }, button("Remove", remove)),
      ),
    );
    this.drawn = {};
  }

  /** Replaces a part's children if what they say has changed. */
  replace(part, elements) {
    const words = elements.map((element) => element.textContent).join("\n");
    if (this.drawn[part] === words) return;
    this.drawn[part] = words;
    this[part].replaceChildren(...elements);
  }

  draw(device, nowMs) {
    this.title.textContent = device.name;
    this.face.draw(device, nowMs);
    this.replace("standing", [...standing(device), ...errorsOf(device, nowMs)]);
    this.replace("facts", facts(device, nowMs).flatMap(([term, words]) => [make("dt", {}, term), make("dd", {}, words)]));
    for (const setting of this.settings) setting.draw(device);
  }
}

/** Adds a device, and shows once what its board must know. */
function adding() {
  const [label, name] = input("text", "Name", { maxlength: "100", required: "", autocomplete: "off" });
  const app = make("select", {}, make("option", { value: "pendant" }, "Pendant"), make("option", { value: "clock" }, "Clock"));
  const answer = make("div");
  const add = async () => {
    const added = await act("POST", "/devices", { name: name.value.trim(), app: app.value });
    const code = make("code", {}, JSON.stringify(added));
    const copy = async () => {
      if (navigator.clipboard) {
        await navigator.clipboard.writeText(code.textContent);
        return "Copied.";
      }
      getSelection().selectAllChildren(code); // over plain HTTP a browser lets no page copy
      return "Selected: copy it with your keyboard.";
    };
    answer.replaceChildren(make("pre", { class: "once", tabindex: "0" }, code), make("p", { class: "actions" }, button("Copy", copy)));
    name.value = "";
    return "Added. This is what its board must know, as “offbeat device add” prints it. It is shown this once.";
  };
  const element = form(add, label, make("label", {}, "Kind", app), make("button", { class: "quiet" }, "Add"));
  return make("details", {}, make("summary", {}, "Add one"), element, answer);
}

export class Devices {
  constructor(place) {
    const list = make("div");
    this.none = make("p", { class: "hint" }, "None yet.");
    this.cards = new Cards(list, (device) => new DeviceCard(device));
    place.replaceChildren(this.none, list, adding());
  }

  draw(devices, nowMs) {
    this.none.hidden = devices.length > 0;
    this.cards.draw(devices, nowMs);
  }

  tick(nowMs) {
    for (const card of this.cards.cards.values()) card.face.tick(nowMs);
  }
}
