// An event leaves this page once: it is written down first, sent until the server has it, always with the same UUID.

import { request, session, whoIsHere } from "./common.js";

const PENDING = "pending";
const FIRST_MS = 300;
const MOST_MS = 5000;

// {sent, who}, or null. It goes out as whoever gave it, also where another link was opened in the tab meanwhile.
export const pending = () => JSON.parse(session.get(PENDING) ?? "null");

// crypto.randomUUID is there on localhost and https alone.
function uuid() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

let wake = () => {};
export const tryNow = () => wake();
window.addEventListener("online", tryNow);

// Until the server answers at all. retried(seconds, why) is called before each wait.
export async function insist(path, body, retried, who) {
  for (let wait = FIRST_MS; ; wait = Math.min(wait * 2, MOST_MS)) {
    const answer = await request(path, body, who);
    const isOurs = answer.status === 0 || answer.status === 408 || answer.status === 429 || answer.status >= 500;
    if (!isOurs) return answer;
    retried(wait / 1000, answer.body.error ?? "the server does not answer");
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, wait);
      wake = () => (clearTimeout(timer), resolve());
    });
  }
}

// The server's answer to the event; it is forgotten here only once the server has said what became of it.
export async function send(event, retried) {
  const { sent, who } = event ? { sent: { event: uuid(), ...event }, who: whoIsHere() } : pending();
  session.set(PENDING, JSON.stringify({ sent, who }));
  const answer = await insist("/api/event", sent, retried, who);
  const isForeign = answer.status === 401 && who.token !== whoIsHere().token;
  if (answer.status !== 401 || isForeign) session.remove(PENDING);
  return { ...answer, sent, isForeign };
}
