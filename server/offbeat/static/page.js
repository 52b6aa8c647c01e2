// The page: asks for the overview, redraws what changed.
import { choices, decisions, Destinations, sender } from "./destinations.js";
import { Devices } from "./devices.js";
import { act, arrange, button, make } from "./elements.js";
import { People } from "./people.js";
import { Player } from "./player.js";

const POLL_MS = 1500;
const TIMEOUT_MS = 15000;
const $ = (id) => document.getElementById(id);

const timeOf = (date) => date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });

function dayOf(date) {
  const midnight = (of) => new Date(of.getFullYear(), of.getMonth(), of.getDate()).getTime();
  const days = Math.round((midnight(new Date()) - midnight(date)) / 86400000);
  if (days === 0) return "Today";
  if (days === 1) return "Yesterday";
  const year = date.getFullYear() === new Date().getFullYear() ? undefined : "numeric";
  return date.toLocaleDateString([], { weekday: "long", day: "numeric", month: "long", year });
}

const PENDING = { receiving: "arriving", received: "waiting its turn", transcribing: "being transcribed" };

function stateOf(note) {
  if (note.set_aside) return "set aside";
  if (note.trouble) return "waiting";
  if (PENDING[note.state]) return PENDING[note.state];
  if (note.deliveries.some((delivery) => delivery.state === "pending")) return "being delivered";
  if (note.deliveries.some((delivery) => delivery.state === "in_doubt")) return "waits for you";
  if (note.deliveries.some((delivery) => delivery.state === "ended")) return "not delivered";
  return note.state;
}

function troublesOf(note) {
  const troubles = note.trouble ? [note.trouble] : [];
  for (const delivery of note.deliveries) {
    if (!delivery.trouble) continue;
    const next = delivery.next_at ? ` Next try at ${timeOf(new Date(delivery.next_at))}.` : "";
    troubles.push(delivery.trouble + next);
  }
  return troubles;
}

const SURE_MS = 30000; // a time that may be off by more is only about right

/** What is to be said of a note's time besides the time itself; null: nothing, it is sure. */
function doubtOf(note) {
  if (note.state === "receiving") return null;
  const [at, from, to] = [note.recorded_at, note.recorded_from, note.recorded_to].map((text) => text && new Date(text));
  if (from === null) return at === null ? "time of recording unknown" : null;
  if (at !== null && to - from <= 2 * SURE_MS) return null;
  const oneDay = dayOf(from) === dayOf(to);
  const between = (date) => (oneDay ? timeOf(date) : `${dayOf(date)} ${timeOf(date)}`);
  return `recorded between ${between(from)} and ${between(to)}`;
}

function textOf(note) {
  if (note.text) return make("p", { class: "text" }, note.text);
  if (note.text === "") return make("p", { class: "text none" }, "No speech in this note.");
  if (note.trouble) return make("p", { class: "text none" }, note.set_aside ? "No text." : "No text yet.");
  return make("p", { class: "text none working" }, note.state === "receiving" ? "Arriving…" : "Listening…");
}

class NoteCard {
  constructor() {
    this.element = make("article", { class: "note" });
    this.player = null;
    this.drawn = "";
    this.editing = false; // then it is not redrawn: what somebody is writing would be lost
  }

  draw(note) {
    const signature = JSON.stringify([note, choices()]);
    if (signature === this.drawn || this.editing) return;
    this.drawn = signature;
    const doubt = doubtOf(note);
    const before = note.recorded_at === null ? "arrived " : doubt ? "about " : null;
    const when = new Date(note.recorded_at ?? note.received_at ?? note.created_at);
    const clock = make("time", { datetime: when.toISOString(), title: when.toLocaleString() }, timeOf(when));
    const state = stateOf(note);
    const troubles = troublesOf(note);
    const meta = make(
      "footer",
      {},
      make("span", {}, note.device_name ?? note.source),
      note.edited_at ? make("span", {}, "corrected") : null,
      doubt ? make("span", {}, doubt) : null,
      note.lost_samples ? make("span", {}, `${(note.lost_samples / 16000).toFixed(2)} s lost`) : null,
      make("span", { class: troubles.length ? "state wrong" : `state ${note.state}` }, state),
    );
    const whole = note.state !== "receiving";
    if (whole && this.player === null) this.player = new Player(note.id, note.duration_s);
    this.element.replaceChildren(
      make("div", { class: "when" }, before ? make("small", {}, before) : null, clock),
      make(
        "div",
        { class: "what" },
        note.title ? make("h3", { class: "title" }, note.title) : null,
        textOf(note),
        ...troubles.map((trouble) => make("p", { class: "trouble" }, trouble)),
        ...decisions(note).filter((part) => part !== null),
        whole ? this.player.element : null,
        meta,
        whole ? this.actions(note) : null,
      ),
    );
    this.day = dayOf(when);
  }

  /** What can be done with a note. */
  actions(note) {
    const path = `/notes/${encodeURIComponent(note.id)}`;
    const correct = make("button", { class: "quiet", type: "button" }, "Correct");
    correct.addEventListener("click", () => this.edit(note, path));
    const again = async () => changed(await act("POST", `${path}/retry`));
    const remove = async () => {
      if (!confirm("Delete this note, its text and its sound?")) return;
      await act("DELETE", path);
      changed(note, true);
    };
    return make(
      "p",
      { class: "actions" },
      note.text === null ? null : correct,
      note.state === "received" && note.trouble ? button("Try again", again) : null,
      sender(note),
      button("Delete", remove),
    );
  }

  edit(note, path) {
    const field = make("textarea", { "aria-label": "Text", rows: "4", maxlength: "200000" });
    field.value = note.text;
    const close = () => {
      this.editing = false;
      this.drawn = "";
      drawNotes();
    };
    const save = async () => {
      const saved = await act("PATCH", path, { text: field.value });
      this.editing = false;
      changed(saved);
    };
    const cancel = make("button", { class: "quiet", type: "button" }, "Cancel");
    cancel.addEventListener("click", close);
    this.editing = true;
    this.element.querySelector(".text").replaceWith(field);
    this.element.querySelector(".actions").replaceChildren(button("Save", save), cancel);
    field.focus();
  }
}

const cards = new Map(); // note id -> NoteCard, of all that was ever shown
let latest = []; // the overview's notes
let older = []; // what "Show older notes" brought
let cursor = null;
let found = null; // what a search found, null without one
let query = "";

/** Takes over what became of a note, at once; the next overview has it, too. */
function changed(note, isGone = false) {
  const update = (list) => list.flatMap((one) => (one.id !== note.id ? [one] : isGone ? [] : [note]));
  latest = update(latest);
  older = update(older);
  if (found !== null) found.notes = update(found.notes);
  if (isGone) cards.delete(note.id);
  else if (cards.has(note.id)) cards.get(note.id).drawn = "";
  drawNotes();
}

function drawNotes() {
  const known = new Set(latest.map((note) => note.id));
  const all = found?.notes ?? [...latest, ...older.filter((note) => !known.has(note.id))];
  const wanted = [];
  let day = null;
  for (const note of all) {
    let card = cards.get(note.id);
    if (!card) cards.set(note.id, (card = new NoteCard()));
    card.draw(note);
    if (card.day !== day) {
      day = card.day;
      wanted.push(heading(day));
    }
    wanted.push(card.element);
  }
  arrange($("notes"), wanted);
  $("more").hidden = (found === null ? cursor : found.next) === null;
  $("found").textContent = found === null ? "" : found.notes.length ? "" : "No note has these words.";
}

const headings = new Map();
function heading(day) {
  if (!headings.has(day)) headings.set(day, make("h2", { class: "day" }, day));
  return headings.get(day);
}

function drawEmpty(overview) {
  const place = $("empty");
  place.hidden = overview.notes.length > 0 || found !== null;
  if (!place.hidden) {
    const hasPendant = overview.devices.some((device) => device.app === "pendant");
    place.replaceChildren(
      make("h2", {}, hasPendant ? "Press, speak, let go." : "Add your pendant"),
      hasPendant
        ? make("p", {}, "What you say appears here as text, a moment after the pendant has handed it over.")
        : make("p", {}, "“Add one” under “Devices” shows what its board needs to know. What it hears appears here as text."),
    );
  }
}

let tag = "";
let overview = null;
let skewMs = 0; // the server's time less this machine's
let polling = false;

function complain(text) {
  $("problem").textContent = text;
  $("problem").hidden = text === "";
}

async function ask(path, headers = {}) {
  const answer = await fetch(path, { headers, cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
  if (answer.status === 401) {
    location.replace("/sign-in");
    throw new Error("signed out");
  }
  if (!answer.ok && answer.status !== 304) throw new Error(`it answered ${answer.status}`);
  return answer;
}

async function poll() {
  if (polling || document.hidden) return;
  polling = true;
  try {
    const answer = await ask("/api/overview", tag ? { "If-None-Match": tag } : {});
    skewMs = Number(answer.headers.get("Offbeat-Time-Ms")) - Date.now();
    if (answer.status === 200) {
      tag = answer.headers.get("ETag");
      overview = await answer.json();
      latest = overview.notes;
      if (older.length === 0) cursor = overview.next;
      destinations.draw(overview.destinations);
      drawNotes();
      drawEmpty(overview);
    }
    devices.draw(overview.devices, Date.now() + skewMs);
    complain("");
  } catch (error) {
    complain(`The server does not answer (${error.message}). What you see may be old; trying again.`);
  } finally {
    polling = false;
  }
}

async function more() {
  const asked = query;
  const before = found === null ? cursor : found.next;
  try {
    const page = await (await ask(`/api/notes?before=${before}&q=${encodeURIComponent(asked)}`)).json();
    if (asked !== query) return;
    if (found === null) {
      older = [...older, ...page.notes];
      cursor = page.next;
    } else found = { notes: [...found.notes, ...page.notes], next: page.next };
    drawNotes();
  } catch (error) {
    complain(`The older notes did not come (${error.message}). Try again.`);
  }
}

let typing = 0;
function search() {
  query = $("search").value.trim();
  clearTimeout(typing);
  if (query === "") {
    found = null;
    drawNotes();
    return;
  }
  typing = setTimeout(async () => {
    const asked = query;
    try {
      const page = await (await ask(`/api/notes?q=${encodeURIComponent(asked)}`)).json();
      if (asked !== query) return; // an older answer that was overtaken
      found = page;
      drawNotes();
    } catch (error) {
      complain(`The search did not work (${error.message}). Try again.`);
    }
  }, 200);
}

async function signOut() {
  try {
    await fetch("/api/sign-out", { method: "POST", signal: AbortSignal.timeout(TIMEOUT_MS) });
    location.replace("/sign-in");
  } catch (error) {
    complain(`You are still signed in: the server does not answer (${error.message}).`);
  }
}

function frame() {
  const nowMs = Date.now() + skewMs;
  devices.tick(nowMs);
  requestAnimationFrame(frame);
}

const devices = new Devices($("devices"));
const destinations = new Destinations($("destinations"));
$("people").append(new People().element);
$("search").addEventListener("input", search);
$("more").addEventListener("click", more);
$("sign-out").addEventListener("click", signOut);
document.addEventListener("visibilitychange", poll);
setInterval(poll, POLL_MS);
poll();
requestAnimationFrame(frame);
