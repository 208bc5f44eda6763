// The page: it asks which models are served, and shows a panel for each.

import { audioPanel, imagePanel, textPanel } from "./panels.js";

const KEY = "s4gen-token";
const about = document.getElementById("about");
const door = document.getElementById("door");
const panels = document.getElementById("panels");

/** Ask the server; the token, if there is one, goes along. Throws an Error whose message is the server's. */
async function ask(path, body, signal) {
  const headers = { "content-type": "application/json" };
  const token = sessionStorage.getItem(KEY);
  if (token) headers.authorization = `Bearer ${token}`;
  const options = body === undefined ? { headers, signal } : { method: "POST", headers, signal, body: JSON.stringify(body) };
  const answer = await fetch(path, options);
  if (answer.ok) return answer;
  let message = `the server answers ${answer.status}`;
  try {
    message = (await answer.json()).error.message;
  } catch {
    // it is no JSON: the status has to do
  }
  throw Object.assign(new Error(message), { status: answer.status });
}

async function begin() {
  let models;
  try {
    models = (await (await ask("v1/models")).json()).data;
  } catch (error) {
    if (error.status !== 401) {
      about.textContent = `The models cannot be listed: ${error.message}`;
      return;
    }
    about.textContent = "";
    const alert = door.querySelector(".alert");
    alert.hidden = sessionStorage.getItem(KEY) === null;
    alert.textContent = "That is not the token.";
    door.hidden = false;
    document.getElementById("token").focus();
    return;
  }
  door.hidden = true;
  about.textContent =
    models.length === 1 ? "One model, drawn on this server." : `${models.length} models, drawn on this server side by side.`;
  const make = { image: imagePanel, text: textPanel, audio: audioPanel };
  for (const kind of ["image", "text", "audio"]) {
    for (const model of models.filter((each) => each.kind === kind)) panels.append(make[kind](model, ask));
  }
}

door.addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, document.getElementById("token").value.trim());
  begin();
});

begin();
