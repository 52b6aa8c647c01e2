// Who may come in: the password, the browsers that are signed in, the tokens of scripts.
import { act, ago, button, form, input, make } from "./elements.js";

const SCOPES = {
  notes: "add notes",
  read: "read notes",
  write: "correct and delete",
  metrics: "figures",
  admin: "everything",
};

export class People {
  constructor() {
    this.password = this.part("Password", () => this.drawPassword());
    this.tokens = this.part("Tokens for scripts", () => this.drawTokens());
    this.sessions = this.part("Signed in", () => this.drawSessions());
    this.element = make("div", { class: "people" }, ...[this.password, this.tokens, this.sessions].map((one) => one.element));
  }

  /** A part that asks the server once it is opened. */
  part(title, draw) {
    const place = make("div");
    const element = make("details", {}, make("summary", {}, title), place);
    element.addEventListener("toggle", async () => {
      if (!element.open) return;
      try {
        await draw();
      } catch (error) {
        place.replaceChildren(make("p", { class: "hint" }, error.message));
      }
    });
    return { element, place };
  }

  async drawPassword() {
    const state = await act("GET", "/password");
    const [currentLabel, current] = input("password", "Current password", { autocomplete: "current-password" });
    const [newLabel, fresh] = input("password", state.is_set ? "New password" : "Password", {
      autocomplete: "new-password",
      minlength: "10",
      required: "",
    });
    const set = async () => {
      await act("PUT", "/password", { password: fresh.value, current: state.needs_current ? current.value : null });
      fresh.value = current.value = "";
      return "Set. All other browsers are signed out.";
    };
    this.password.place.replaceChildren(
      make("p", { class: "hint" }, state.is_set ? "A password is set." : "None yet: a link of “offbeat sign-in” lets you in."),
      form(
        set,
        make("input", { type: "text", autocomplete: "username", value: "offbeat", hidden: "" }), // for password managers
        state.needs_current ? currentLabel : null,
        newLabel,
        make("button", { class: "quiet" }, "Set"),
      ),
    );
  }

  async drawTokens() {
    const tokens = await act("GET", "/tokens");
    const [nameLabel, name] = input("text", "Name", { maxlength: "100", required: "" });
    const boxes = Object.entries(SCOPES).map(([scope, text]) => {
      const box = make("input", { type: "checkbox", value: scope });
      return [make("label", { class: "check" }, box, `${scope}: ${text}`), box];
    });
    const create = async () => {
      const scopes = boxes.filter(([, box]) => box.checked).map(([, box]) => box.value);
      if (scopes.length === 0) return "Choose what it may do.";
      const made = await act("POST", "/tokens", { name: name.value, scopes });
      await this.drawTokens();
      this.tokens.place.prepend(
        make("p", { class: "hint" }, "Made. It is shown this once:"),
        make("pre", {}, make("code", {}, made.token)),
      );
      return "";
    };
    const revoke = (token) => async () => {
      if (!confirm(`End the token “${token.name}”?`)) return;
      await act("DELETE", `/tokens/${token.id}`);
      await this.drawTokens();
    };
    this.tokens.place.replaceChildren(
      ...tokens.map((token) =>
        make(
          "p",
          { class: "row" },
          make("strong", {}, token.name),
          ` ${token.scopes.join(", ")} · ${token.used_at ? `used ${ago(Date.now() - Date.parse(token.used_at))}` : "not used yet"}`,
          button("End", revoke(token)),
        ),
      ),
      form(create, nameLabel, ...boxes.map(([label]) => label), make("button", { class: "quiet" }, "Make one")),
    );
  }

  async drawSessions() {
    const sessions = await act("GET", "/sessions");
    const end = (session) => async () => {
      await act("DELETE", `/sessions/${session.id}`);
      await this.drawSessions();
    };
    this.sessions.place.replaceChildren(
      ...sessions.map((session) =>
        make(
          "p",
          { class: "row" },
          session.name || "A browser",
          session.is_this ? " · this one" : ` · seen ${ago(Date.now() - Date.parse(session.seen_at ?? session.created_at))}`,
          session.is_this ? null : button("Sign out", end(session)),
        ),
      ),
    );
  }
}
