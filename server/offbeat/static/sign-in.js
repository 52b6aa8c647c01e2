// Takes the token from behind the # of a sign-in link. It never goes to the server as part of an address.
const token = location.hash.slice(1);
const problem = document.getElementById("problem");

async function signIn() {
  history.replaceState(null, "", location.pathname);
  try {
    const answer = await fetch("/api/sign-in", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ token }),
      signal: AbortSignal.timeout(15000),
    });
    if (answer.ok) {
      location.replace("/");
      return;
    }
    const { detail } = await answer.json();
    problem.textContent = typeof detail === "string" ? detail : "This link is not whole. Copy all of it.";
  } catch (error) {
    problem.textContent = `The server does not answer (${error.message}). Reload to try again.`;
  }
  problem.hidden = false;
}

if (token) signIn();
window.addEventListener("hashchange", () => location.reload());
