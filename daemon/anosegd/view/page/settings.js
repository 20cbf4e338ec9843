// What the server says about this screen, and about the person in front of it.

const LOGIN = "login";
const ROLES = ["see", "mark", "change"];

const response = await fetch("settings");
// On the page of login there is nobody yet.
export const settings = response.ok ? await response.json() : { person: null };

// Whether the person may do what needs this role. The server checks it again.
export function may(role) {
  return settings.person !== null && ROLES.indexOf(settings.person.role) >= ROLES.indexOf(role);
}

// Goes to the page of login if the session has ended, and comes back to this page afterwards.
export async function checkLogin() {
  const here = location.pathname.replace(/^\//, "");
  if (here === LOGIN) return;
  const status = await fetch("settings").then((answer) => answer.status, () => 0);
  if (status === 401) location.assign(`${LOGIN}?to=${encodeURIComponent(here + location.search)}`);
}
