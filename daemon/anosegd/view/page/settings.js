// What the server says about this screen, and about the person in front of it.

export const settings = await (await fetch("settings")).json();

const ROLES = ["see", "mark", "change"];

// Whether the person may do what needs this role. The server checks it again.
export function may(role) {
  return settings.person !== null && ROLES.indexOf(settings.person.role) >= ROLES.indexOf(role);
}
