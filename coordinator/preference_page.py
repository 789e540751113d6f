"""The page on which a person says which of two samples is better, and signs it with the wallet in the browser.

The page itself holds no text of any peer; its script asks the API for it and shows it as text.
"""

from coordinator.page import Markup, document, element, link
from protocol.manifest import RunManifest
from protocol.preferences import people_of


def render_preferences(manifest: RunManifest) -> str:
    """Return the page.

    Raises:
        Malformed: the run asks no people.
    """
    rollouts, people = people_of(manifest)
    count = len(people.addresses)
    weighed = next(one for one in rollouts.rewards if one.source == "human" and one.weight)
    sides = (
        element("section", element("h2", name.capitalize()), element("div", id=name), class_="side")
        for name in ("left", "right")
    )
    buttons = (
        element("button", text, id=name, type="button", disabled="disabled")
        for name, text in (
            ("prefer-left", "Left is better"),
            ("prefer-right", "Right is better"),
            ("skip", "Skip"),
        )
    )
    main = element(
        "main",
        element("h1", f"{manifest.name} · which is better?"),
        element("p", link("the run", "/")),
        element(
            "p",
            f"The run asks {count} {'person' if count == 1 else 'people'} to compare samples. What is signed becomes "
            "the reward ",
            element("strong", weighed.component),
            f", weight {weighed.weight:g}, of the samples that the policy learns from.",
        ),
        element(
            "p",
            element("button", "Connect wallet", id="connect", type="button"),
            " ",
            element("span", id="account"),
        ),
        element("p", id="told", role="status"),
        element("p", id="place"),
        element("div", *sides, class_="sides"),
        element("p", *buttons, class_="choices"),
        element("p", id="says"),
        Markup('<script src="/preferences.js"></script>'),
        data_run=manifest.run_id,
    )
    return document("preferences", main)


SCRIPT = """"use strict";
const run = document.querySelector("main").dataset.run;
const at = (name) => document.getElementById(name);
const choices = ["prefer-left", "prefer-right", "skip"];
const PATIENCE_MS = 3000;
const SKIPPED = 32;
let account = null, pair = null, busy = false, skipped = [], timer = 0;

function tell(text, wrong) {
  at("told").textContent = text;
  at("told").className = wrong ? "bad" : "";
}

function allow(on) {
  for (const name of choices) at(name).disabled = !on;
}

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    throw new Error("the coordinator does not answer: is it running?");
  }
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(told.detail || "the coordinator answered " + answer.status);
  return told;
}

function words(error) {
  if (error && error.code === 4001) return "you did not agree in your wallet; nothing was signed";
  return String((error && error.message) || error);
}

function show(side, sample) {
  const parts = sample.parts.map((part) => {
    const [line, who, said] = ["p", "strong", "code"].map((name) => document.createElement(name));
    who.textContent = part.player === null ? "environment " : "policy ";
    said.className = "said";
    said.textContent = part.text;
    line.append(who, said);
    return line;
  });
  at(side).replaceChildren(...parts);
}

function name() {
  const places = [pair.left.place, pair.right.place];
  return [pair.round, pair.number, pair.group, Math.min(...places), Math.max(...places)].join("-");
}

async function next() {
  allow(false);
  const query = new URLSearchParams({ address: account });
  for (const one of skipped.slice(-SKIPPED)) query.append("skip", one);
  pair = (await ask("/v1/runs/" + run + "/preferences/next?" + query)).pair;
  if (pair === null) {
    at("left").replaceChildren();
    at("right").replaceChildren();
    at("place").textContent = "";
    tell("There is nothing to compare now. The page looks again by itself.", false);
    later();
    return;
  }
  show("left", pair.left);
  show("right", pair.right);
  at("place").textContent = "Round " + pair.round + ", number " + pair.number + ", group " + pair.group +
    ": counts until the record of round " + pair.last_record + ".";
  allow(true);
}

function later() {
  clearTimeout(timer);
  timer = setTimeout(again, PATIENCE_MS);
}

async function again() {
  try {
    if (!busy) await next();
  } catch (error) {
    tell(words(error), true);
    later();
  }
}

async function choose(better, worse) {
  busy = true;
  allow(false);
  try {
    const { round, number, group } = pair;
    const place = { round, number, group, better: better.place, worse: worse.place };
    const query = new URLSearchParams({ address: account, ...place });
    const found = await ask("/v1/runs/" + run + "/preferences/typed-data?" + query);
    const body = found.typed_data.message.body;
    at("says").textContent = "You sign: " + found.says + " Your wallet shows it as body " + body + ".";
    const signature = await window.ethereum.request({
      method: "eth_signTypedData_v4",
      params: [account, JSON.stringify(found.typed_data)],
    });
    const told = await ask("/v1/runs/" + run + "/preferences", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ address: account, ...place, signature: signature }),
    });
    skipped.push(name());
    tell("Accepted. " + told.says, false);
  } catch (error) {
    tell("Not accepted: " + words(error), true);
  }
  at("says").textContent = "";
  busy = false;
  try {
    await next();
  } catch (error) {
    tell(words(error), true);
  }
}

at("connect").addEventListener("click", async () => {
  if (!window.ethereum) {
    tell("There is no wallet in this browser. Install one, or use `murmur run prefer`.", true);
    return;
  }
  try {
    const accounts = await window.ethereum.request({ method: "eth_requestAccounts" });
    if (!accounts || !accounts.length) throw new Error("your wallet shows no account");
    account = accounts[0];
    at("account").textContent = account;
    tell("", false);
    await next();
  } catch (error) {
    tell(words(error), true);
  }
});
at("prefer-left").addEventListener("click", () => choose(pair.left, pair.right));
at("prefer-right").addEventListener("click", () => choose(pair.right, pair.left));
at("skip").addEventListener("click", () => {
  skipped.push(name());
  tell("Skipped.", false);
  again();
});
"""
