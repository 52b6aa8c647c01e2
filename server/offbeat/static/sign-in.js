// Takes the token from behind the # of a sign-in link. It never goes to the server as part of an address.
const token = location.hash.slice(1);
const problem = document.getElementById("problem");

async function signIn(shown) {
  try {
    const answer = await fetch("/api/sign-in", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(shown),
      signal: AbortSignal.timeout(15000),
    });
    if (answer.ok) {
      location.replace("/");
      return;
    }
    const { detail } = await answer.json();
    problem.textContent = answer.status === 422 && shown.token ? "This link is not whole. Copy all of it." : detail;
  } catch (error) {
    problem.textContent = `The server does not answer (${error.message}). Reload to try again.`;
  }
  problem.hidden = false;
}

if (token) {
  history.replaceState(null, "", location.pathname);
  signIn({ token });
}
document.getElementById("password-form").addEventListener("submit", (event) => {
  event.preventDefault();
  signIn({ password: document.getElementById("password").value });
});
window.addEventListener("hashchange", () => location.reload());
