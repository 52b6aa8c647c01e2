// A small sound player: one button, one line to drag. Only one plays at a time.
let playing = null;

const PLAY = "M6 4 L18 11 L6 18 Z";
const PAUSE = "M6 4 H10 V18 H6 Z M13 4 H17 V18 H13 Z";

function icon() {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 22 22");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", PLAY);
  svg.append(path);
  return [svg, path];
}

export class Player {
  /** `seconds` may be null: then the length is known once the sound is loaded. The length shows until it plays. */
  constructor(noteId, seconds) {
    this.seconds = seconds;
    this.audio = new Audio();
    this.audio.preload = "none";
    this.audio.src = `/api/notes/${noteId}/sound.wav`;
    const [svg, path] = icon();
    this.path = path;
    this.button = document.createElement("button");
    this.button.type = "button";
    this.button.className = "play";
    this.button.append(svg);
    this.line = document.createElement("input");
    Object.assign(this.line, { type: "range", min: "0", max: "1000", value: "0" });
    this.line.setAttribute("aria-label", "Position in the sound");
    this.time = document.createElement("span");
    this.time.className = "elapsed";
    const original = document.createElement("a");
    original.href = `/api/notes/${noteId}/original`;
    original.className = "original";
    original.textContent = "File";
    original.title = "Download the file as it was sent";
    this.element = document.createElement("div");
    this.element.className = "player";
    this.element.append(this.button, this.line, this.time, original);

    this.button.addEventListener("click", () => this.toggle());
    this.line.addEventListener("input", () => this.seek());
    for (const event of ["timeupdate", "play", "pause", "ended", "durationchange"])
      this.audio.addEventListener(event, () => this.draw());
    this.audio.addEventListener("error", () => this.fail());
    this.draw();
  }

  length() {
    return Number.isFinite(this.audio.duration) ? this.audio.duration : (this.seconds ?? 0);
  }

  toggle() {
    if (!this.audio.paused) {
      this.audio.pause();
      return;
    }
    if (playing && playing !== this) playing.audio.pause();
    playing = this;
    this.audio.play().catch((error) => {
      if (error.name !== "AbortError") this.fail(); // AbortError: paused before it began
    });
  }

  seek() {
    this.audio.currentTime = (Number(this.line.value) / 1000) * this.length();
  }

  draw() {
    const at = this.audio.currentTime;
    const length = this.length();
    this.path.setAttribute("d", this.audio.paused ? PLAY : PAUSE);
    this.button.setAttribute("aria-label", this.audio.paused ? "Play" : "Pause");
    const share = length ? Math.min(1, at / length) : 0;
    this.line.value = String(Math.round(share * 1000));
    this.line.style.setProperty("--share", `${share * 100}%`);
    const whole = at > 0 || !this.audio.paused ? Math.floor(at) : Math.max(1, Math.round(length));
    this.time.textContent = length === 0 ? "" : `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
  }

  fail() {
    this.time.textContent = "cannot be played";
    this.time.classList.add("wrong");
  }
}
