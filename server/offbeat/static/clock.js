// A clock's face: the dial as it stands now, from the plan that the clock reported (docs/protocol.md, check-in).
import { ago, make } from "./elements.js";

const POSITIONS = 43200; // 12 h of 60 min of 60 steps
const MINUTE_MS = 60000;
const STALE_MS = 150000;
const CATCH_UP_MS = 125; // 8 steps a second

const modulo = (value) => ((value % POSITIONS) + POSITIONS) % POSITIONS;

/** The position of a reading such as "10:08:30". */
function positionOf(reading) {
  const [hours, minutes, seconds] = reading.split(":").map(Number);
  return modulo(hours * 3600 + minutes * 60 + seconds);
}

/** Where the hands should stand at a time, in steps past 12:00:00; by the plan in its minute, else a step a second.
 *  A clock that is not synced knows no time: its hands run on from where it said they were. */
function target(report, reportedMs, nowMs) {
  if (report.settings?.hold) return positionOf(report.settings.hold);
  if (report.uncertainty_ms === null) return modulo(report.position + Math.floor((nowMs - reportedMs) / 1000));
  const minute = Math.floor(nowMs / MINUTE_MS);
  const intoMs = nowMs - minute * MINUTE_MS;
  const begin = minute * 60 + report.utc_offset_s;
  const planned = minute === report.minute && report.plan;
  const steps = planned ? report.plan.filter((tick) => tick <= intoMs).length : Math.floor(intoMs / 1000);
  return modulo(begin + steps);
}

const NAMESPACE = "http://www.w3.org/2000/svg";

function shape(name, attributes) {
  const element = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  return element;
}

function dial() {
  const svg = shape("svg", { viewBox: "-100 -100 200 200", class: "dial", role: "img" });
  svg.append(shape("circle", { r: 97, class: "face" }));
  for (let mark = 0; mark < 60; mark += 1) {
    const long = mark % 5 === 0;
    svg.append(
      shape("line", {
        x1: 0, x2: 0, y1: -88, y2: long ? -77 : -84, class: long ? "mark hour" : "mark",
        transform: `rotate(${mark * 6})`,
      }),
    );
  }
  const hands = {
    hour: shape("line", { x1: 0, x2: 0, y1: 10, y2: -48, class: "hand hours" }),
    minute: shape("line", { x1: 0, x2: 0, y1: 13, y2: -72, class: "hand minutes" }),
    second: shape("line", { x1: 0, x2: 0, y1: 20, y2: -80, class: "hand seconds" }),
  };
  svg.append(hands.hour, hands.minute, hands.second, shape("circle", { r: 4, class: "hub" }));
  return [svg, hands];
}

const complete = (report) =>
  [report?.position, report?.minute, report?.utc_offset_s].every(Number.isInteger) && Array.isArray(report.plan);

export class ClockFace {
  constructor() {
    const [svg, hands] = dial();
    this.dial = svg;
    this.hands = hands;
    this.line = make("p");
    this.word = make("p", { class: "word" });
    this.element = make("div", {}, svg, this.line, this.word);
    this.report = null;
    this.reportedMs = 0;
    this.shown = null; // steps past 12:00:00, counted on without wrapping so that no hand spins back
    this.steppedMs = 0;
  }

  draw(device, nowMs) {
    const report = device.report;
    const parts = ["clock"];
    if (report?.mode) parts.push(report.mode);
    if (report && "uncertainty_ms" in report)
      parts.push(report.uncertainty_ms === null ? "not synced yet" : `within ${report.uncertainty_ms} ms`);
    if (report?.late_ticks) parts.push(`${report.late_ticks} late ${report.late_ticks === 1 ? "tick" : "ticks"}`);
    this.line.textContent = parts.join(" · ");
    this.contactMs = device.contact_at ? Date.parse(device.contact_at) : null;
    this.isLost = report?.position === null;
    if (this.isLost) this.report = null;
    if (complete(report) && device.reported_ms !== this.reportedMs) this.take(report, device.reported_ms, nowMs);
    this.dial.classList.toggle("unknown", this.report === null);
    this.tick(nowMs);
  }

  /** Takes over a report: from where the hands were, unless what is shown agrees with it anyway. */
  take(report, reportedMs, nowMs) {
    this.report = report;
    this.reportedMs = reportedMs;
    const off = modulo(report.position - target(report, reportedMs, reportedMs) + POSITIONS / 2) - POSITIONS / 2;
    const place = Math.abs(off) <= 2 ? target(report, reportedMs, nowMs) : report.position;
    if (this.shown === null) this.shown = place;
    else if (Math.abs(modulo(place - this.shown + POSITIONS / 2) - POSITIONS / 2) > 2)
      this.shown += modulo(place - this.shown);
  }

  tick(nowMs) {
    if (this.report === null && this.isLost) {
      this.say("It does not know where its hands stand: tell it what they show.", true);
      return;
    }
    if (this.report === null) {
      this.say(this.contactMs === null ? "Never seen yet." : `Last contact ${ago(nowMs - this.contactMs)}.`, true);
      return;
    }
    const ageMs = nowMs - this.reportedMs;
    const stale = ageMs > STALE_MS;
    const behind = modulo(target(this.report, this.reportedMs, nowMs) - this.shown);
    const held = this.report.settings?.hold; // then the hands run there, however far it is, and stay
    const isBehind = behind > 0 && (held || behind <= POSITIONS / 2);
    if (!stale && isBehind && nowMs - this.steppedMs >= CATCH_UP_MS) {
      this.shown += 1;
      this.steppedMs = nowMs;
    }
    const planned = Math.floor(nowMs / MINUTE_MS) === this.report.minute;
    if (stale) this.say(`No word for ${Math.floor(ageMs / MINUTE_MS)} min. The hands stand as last known.`, true);
    else if (held) this.say(behind === 0 ? `Held at ${held}.` : `Runs to ${held}, and holds there.`, false);
    else if (this.report.uncertainty_ms === null) this.say("Not synced yet: shown at a step a second.", false);
    else if (behind > POSITIONS / 2) this.say("Ahead of the time: it waits.", false);
    else if (behind > 2) this.say("Catching up.", false);
    else this.say(planned ? "Ticks as shown." : "Shown steady until it tells its next minute.", false);
    this.place();
  }

  say(text, stale) {
    if (this.word.textContent !== text) this.word.textContent = text;
    this.element.classList.toggle("stale", stale);
  }

  place() {
    if (this.placed === this.shown) return;
    this.placed = this.shown;
    const turn = (hand, degrees) => (hand.style.transform = `rotate(${degrees}deg)`);
    turn(this.hands.second, this.shown * 6);
    turn(this.hands.minute, this.shown / 10);
    turn(this.hands.hour, this.shown / 120);
    const two = (value) => String(value).padStart(2, "0");
    const at = modulo(this.shown);
    const label = `${Math.floor(at / 3600) || 12}:${two(Math.floor(at / 60) % 60)}:${two(at % 60)}`;
    this.dial.setAttribute("aria-label", `The hands show ${label}`);
  }
}
