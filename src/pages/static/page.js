// The script of all pages: forms that call the API, and figures that move while an experiment runs. Texts of models
// are set as texts only, never as HTML.

const of = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const experiment = document.body.dataset.experiment;
const page = document.body.dataset.page;
const csrf = of('meta[name="csrf"]').content;
const number = new Intl.NumberFormat("en");
const fixed = (value) => (value === null || value === undefined ? "–" : value.toFixed(2));

/** Makes an element with texts or elements in it. */
function element(name, attributes = {}, ...content) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) made.setAttribute(key, value);
  }
  made.append(...content.map((part) => (part === null || part === undefined ? "–" : part)));
  return made;
}

/** Sends a request to the API. Throws the reason of a refusal. */
async function send(method, path, body, type = "application/json") {
  const options = { method, headers: {} };
  if (method !== "GET") options.headers["X-CSRF-Token"] = csrf;
  if (body !== undefined) {
    options.headers["Content-Type"] = type;
    options.body = type === "application/json" ? JSON.stringify(body) : body;
  }
  const response = await fetch(path, options);
  const text = await response.text();
  const isJson = /^application\/(problem\+)?json\b/.test(response.headers.get("content-type") ?? "");
  const answer = isJson && text ? JSON.parse(text) : text;
  if (!response.ok) throw new Error(answer.detail ?? `the server answered with ${response.status}`);
  return answer;
}

const get = (path) => send("GET", path);
const at = (rest) => `/api/v1/experiments/${encodeURIComponent(experiment)}${rest}`;

function notice(text) {
  of("#notice").textContent = text;
  setTimeout(() => of("#notice").textContent === text && (of("#notice").textContent = ""), 6000);
}

/** Runs work of a button or a form once at a time, and shows why it failed. */
async function attempt(control, work) {
  const error = control.matches("form") ? of(".error", control) : null;
  const buttons = control.matches("form") ? all("button", control) : [control];
  buttons.forEach((button) => (button.disabled = true));
  if (error) error.hidden = true;
  try {
    await work();
  } catch (failure) {
    if (error) {
      error.textContent = failure.message;
      error.hidden = false;
    } else {
      notice(failure.message);
    }
  } finally {
    buttons.forEach((button) => (button.disabled = false));
  }
}

function onSubmit(selector, work) {
  const form = of(selector);
  form?.addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(form, () => work(form, new FormData(form)));
  });
}

function onClick(button, work) {
  button?.addEventListener("click", () => attempt(button, work));
}

/** Fills a list of figures. */
function figures(selector, rows) {
  of(selector)?.replaceChildren(
    ...rows.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, String(value)))),
  );
}

// Sign-in. The secrets of links are in the part of the address that no browser sends.

onSubmit("#sign-in", async (_, data) => {
  await send("POST", "/api/v1/session", { name: data.get("name"), password: data.get("password") });
  location.assign("/");
});

onSubmit("#invitation", async (_, data) => {
  const name = data.get("name") || null;
  const body = { secret: location.hash.slice(1), name, password: data.get("password") };
  await send("POST", "/api/v1/session/invitation", body);
  location.replace("/");
});

onSubmit("#link", async () => {
  await send("POST", "/api/v1/session/link", { secret: location.hash.slice(1) });
  location.replace("/");
});

onClick(of("#sign-out"), async () => {
  await send("DELETE", "/api/v1/session");
  location.assign("/sign-in");
});

// Experiments.

onSubmit("#create", async (form, data) => {
  const configuration = await data.get("configuration").text();
  const files = {};
  for (const file of data.getAll("files").filter((file) => file.size > 0)) {
    const uploaded = await send("POST", "/api/v1/artifacts", file, "application/octet-stream");
    files[file.webkitRelativePath || file.name] = uploaded.artifact;
  }
  const made = await send("POST", "/api/v1/experiments", { configuration, files, start: of('[name="start"]', form).checked });
  location.assign(`/experiments/${encodeURIComponent(made.experiment)}`);
});

function words(row) {
  if (row.hosting === "halted" || row.hosting === "loading") return row.hosting;
  if (row.status === "going") return row.waits_for_people ? "waits for people" : "in progress";
  return row.status ?? "ended";
}

/** Looks again while the page is open. */
function repeat(seconds, work) {
  const look = async () => {
    if (!document.hidden) await work().catch(() => {});
    setTimeout(look, seconds * 1000);
  };
  setTimeout(look, seconds * 1000);
}

if (page === "experiments" && of("#experiments")) {
  repeat(2, async () => {
    const { rows } = await get("/api/v1/experiments?limit=1000");
    for (const row of rows) {
      const line = all("#experiments tbody tr").find((line) => line.dataset.name === row.experiment);
      if (!line) continue;
      of(".state", line).textContent = words(row);
      of(".events", line).textContent = number.format(row.events);
      if (row.round !== null) of(".round", line).textContent = `${row.round + 1} of ${row.rounds}`;
      if (row.judgements_wanted) {
        of(".judgements", line).textContent = `${number.format(row.judgements)} of ${number.format(row.judgements_wanted)}`;
      }
    }
  });
}

// One experiment.

for (const button of all("[data-order]")) {
  onClick(button, async () => {
    const order = button.dataset.order;
    if (order === "cancel" && !confirm(`Cancel ${experiment}? This is final; its history is kept.`)) return;
    const done = await send("POST", order === "retry" ? at("/retry") : at(`/orders/${order}`), {});
    notice(done.changed === false ? "Nothing to change." : `${order}: done.`);
    await refresh();
  });
}

async function refresh() {
  const { overview, hosting } = await get(at(""));
  const state = { in_progress: "in progress", waits_for_people: "waits for people", stopped: "stopped early" };
  of("#state").textContent = hosting.hosting === "halted" ? "halted" : (state[overview.state] ?? overview.state);
  if (page !== "experiment") return;
  const set = (name, value) => (of(`[data-figure="${name}"]`).textContent = value);
  set("rounds", `${overview.rounds_closed} of ${overview.rounds_planned}`);
  set("events", number.format(overview.events));
  set("selected", number.format(overview.selected));
  set("judgements", number.format(overview.judgements));
  const cell = (value) => element("td", { class: "num" }, value);
  const rows = overview.rounds.map((round) =>
    element(
      "tr", {}, element("th", { scope: "row" }, String(round.round + 1)), element("td", {}, round.at),
      cell(`${round.measured} of ${round.prompts}`), cell(String(round.set_aside)), cell(fixed(round.mean_abs_pacs)),
      cell(fixed(round.kendall_tau)), cell(String(round.selected)), cell(String(round.judgements)),
    ),
  );
  if (rows.length) of("#rounds tbody").replaceChildren(...rows);
}

if (page === "experiment") {
  const listed = of("#events");
  let due = false;
  const source = new EventSource(at("/events"));
  source.addEventListener("message", (event) => {
    const { version, progress, events } = JSON.parse(event.data);
    of('[data-figure="events"]').textContent = number.format(version);
    if (progress.status) of("#state").textContent = words(progress);
    for (const row of events.slice(-10)) {
      const time = new Date(row.time_us / 1000).toLocaleTimeString();
      listed.prepend(element("li", {}, `${number.format(row.version)} · ${time} · ${row.event_type}`));
    }
    while (listed.children.length > 10) listed.lastChild.remove();
    due = true;
  });
  // The figures need the whole history: less often than messages come.
  repeat(2, async () => {
    if (due) {
      due = false;
      await refresh();
    }
  });
}

// Conflicts.

if (page === "conflicts") {
  const filters = of("#filters");
  const state = { sort: "-abs_pacs", next: null, rows: [] };
  const columns = ["abs_pacs", "z_reward", "z_logprob"];

  const query = (more = {}) => {
    const parameters = new URLSearchParams();
    for (const [key, value] of new FormData(filters)) {
      if (value !== "") parameters.set(key, key === "round" ? String(Number(value) - 1) : value);
    }
    for (const [key, value] of Object.entries(more)) parameters.set(key, value);
    return at(`/tables/conflicts?${parameters}`);
  };

  const show = (row) => {
    of("#texts-title").textContent = `Completion ${row.completion} of ${row.prompt_id}`;
    of("#texts-prompt").textContent = row.prompt;
    of("#texts-completion").textContent = row.text || "(empty completion)";
    figures("#texts-figures", [
      ["PACS", fixed(row.pacs)], ["Reward", fixed(row.reward)], ["Log-probability", fixed(row.logprob)],
      ["Round", row.round + 1], ["Outcome", row.outcome ?? "not judged"],
    ]);
    of("#texts").showModal();
  };

  const line = (row) => {
    const open = element("button", { type: "button", class: "plain" }, row.prompt_id);
    open.addEventListener("click", () => show(row));
    return element(
      "tr", {}, ...columns.map((name) => element("td", { class: "num" }, fixed(row[name]))),
      element("td", {}, open), element("td", { class: "text", dir: "auto" }, row.text.slice(0, 200)),
      element("td", {}, row.outcome), element("td", {}, row.category),
    );
  };

  const draw = (rows) => {
    const SVG = "http://www.w3.org/2000/svg";
    const [width, height, edge] = [720, 440, 34];
    const points = rows.filter((row) => row.z_reward !== null && row.z_logprob !== null);
    const reach = Math.max(2, ...points.flatMap((row) => [Math.abs(row.z_reward), Math.abs(row.z_logprob)])) * 1.05;
    const x = (value) => edge + ((value + reach) / (2 * reach)) * (width - 2 * edge);
    const y = (value) => height - edge - ((value + reach) / (2 * reach)) * (height - 2 * edge);
    const part = (name, attributes, text) => {
      const made = document.createElementNS(SVG, name);
      for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
      if (text !== undefined) made.textContent = text;
      return made;
    };
    const svg = part("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Scatter of conflicts" });
    svg.append(
      part("line", { class: "axis", x1: x(-reach), x2: x(reach), y1: y(0), y2: y(0) }),
      part("line", { class: "axis", x1: x(0), x2: x(0), y1: y(-reach), y2: y(reach) }),
      part("line", { class: "diagonal", x1: x(-reach), y1: y(-reach), x2: x(reach), y2: y(reach) }),
      part("text", { x: width - edge, y: height - 8, "text-anchor": "end" }, "z of the log-probability →"),
      part("text", { x: 6, y: 18 }, "↑ z of the reward"),
    );
    points.forEach((row, index) => {
      const side = Math.abs(row.pacs) < 1 ? "" : row.pacs > 0 ? " above" : " below";
      const point = part("circle", {
        class: `point${side}`, cx: x(row.z_logprob), cy: y(row.z_reward), r: 5, role: "button",
        tabindex: index ? "-1" : "0",
        "aria-label": `${row.prompt_id}, completion ${row.completion}, PACS ${fixed(row.pacs)}`,
      });
      point.addEventListener("click", () => show(row));
      point.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (event.key === "Enter" || event.key === " ") show(row);
        else if (step) all(".point", svg)[(index + step + points.length) % points.length].focus();
        else return;
        event.preventDefault();
      });
      svg.append(point);
    });
    of("#scatter").replaceChildren(svg);
    of("#shown").textContent = `${points.length} completions${state.next ? ", those with the strongest conflict" : ""}.`;
  };

  let asked = 0;
  const load = async (more) => {
    const turn = ++asked;
    const scattered = more ? null : get(query({ sort: "-abs_pacs", limit: 1000 }));
    const found = await get(query({ sort: state.sort, limit: 50, ...(more ? { cursor: state.next } : {}) }));
    if (turn !== asked) return;
    state.next = found.next;
    const lines = found.rows.map(line);
    if (more) of("#conflicts tbody").append(...lines);
    else of("#conflicts tbody").replaceChildren(...lines);
    of("#more").hidden = found.next === null;
    if (scattered) {
      const { rows, next } = await scattered;
      if (turn !== asked) return;
      draw(next ? rows : rows);
      const topics = [...new Set(rows.map((row) => row.category).filter(Boolean))].sort();
      of("#topics").replaceChildren(...topics.map((topic) => element("option", { value: topic })));
    }
    for (const button of all("[data-sort]")) {
      const isSorted = state.sort.replace("-", "") === button.dataset.sort;
      const direction = state.sort.startsWith("-") ? "descending" : "ascending";
      if (isSorted) button.closest("th").setAttribute("aria-sort", direction);
      else button.closest("th").removeAttribute("aria-sort");
    }
  };
  const again = (more = false) => load(more).catch((failure) => notice(failure.message));
  for (const button of all("[data-sort]")) {
    button.addEventListener("click", () => {
      const name = button.dataset.sort;
      state.sort = state.sort === `-${name}` ? name : `-${name}`;
      again();
    });
  }
  let pause;
  filters.addEventListener("input", () => {
    clearTimeout(pause);
    pause = setTimeout(again, 250);
  });
  filters.addEventListener("submit", (event) => event.preventDefault());
  of("#more").addEventListener("click", () => again(true));
  again();
}

// History.

if (page === "history") {
  const slider = of("#version");
  const names = [
    ["state", "State"], ["rounds_closed", "Rounds closed"], ["selected", "Completions selected"],
    ["judgements", "Judgements"], ["evaluations", "Evaluations"], ["events", "Events"], ["state_hash", "State hash"],
  ];
  let now = null;
  let position = null;
  const shown = (value) => (value === undefined ? "–" : String(value).replaceAll("_", " ").slice(0, 16));
  const beside = (then) => {
    of("#beside tbody").replaceChildren(
      ...names.map(([key, name]) =>
        element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, shown(then?.[key])), element("td", {}, shown(now?.[key]))),
      ),
    );
  };
  const move = async () => {
    const version = Number(slider.value);
    of("#version-shown").textContent = number.format(version);
    const text = await get(at(`/events?after=${version - 1}&limit=1`));
    const event = JSON.parse(text.split("\n")[0]);
    const { overview } = await get(at(`/state?at=${event.position}`));
    if (Number(slider.value) !== version) return;
    position = event.position;
    of("#event-shown").textContent = `${event.event_type}, ${new Date(event.time_us / 1000).toLocaleString()}, position ${event.position}`;
    beside(overview);
  };
  let pause;
  slider.addEventListener("input", () => {
    of("#version-shown").textContent = number.format(slider.value);
    clearTimeout(pause);
    pause = setTimeout(() => move().catch((failure) => notice(failure.message)), 120);
  });
  of("#moment").addEventListener("submit", (event) => event.preventDefault());
  const begin = async () => {
    now = (await get(at(""))).overview;
    slider.max = now.events;
    of("#version-max").textContent = number.format(now.events);
    slider.value = now.events;
    await move();
  };
  begin().catch((failure) => notice(failure.message));
  onSubmit("#fork", async (_, data) => {
    const set = data.get("set").split("\n").map((line) => line.trim()).filter(Boolean);
    const made = await send("POST", at("/fork"), { name: data.get("name"), set, at: position });
    location.assign(`/experiments/${encodeURIComponent(made.experiment)}`);
  });
}

// Server.

if (page === "server") {
  const look = async () => {
    const status = await get("/api/v1/status");
    figures("#server", [
      ["Version", status.version], ["State", status.not_ready ?? "ready"], ["Broker", status.broker],
      ["Host", status.host ?? "–"], ["Experiments", status.experiments],
    ]);
    const { loaded, bytes, loads, evictions } = status.models;
    figures("#models", [
      ["Loaded", loaded], ["Memory", `${(bytes / 2 ** 30).toFixed(2)} GiB`], ["Loads", loads], ["Let go", evictions],
    ]);
    const log = await get("/api/v1/log");
    figures("#log", [["Events", number.format(log.events)], ["Experiments", number.format(log.experiments)]]);
    if (!of("#queues") || status.broker !== "rabbitmq") return;
    const queues = await get("/api/v1/queues");
    of("#queues tbody").replaceChildren(
      ...queues.rows.map((row) =>
        element("tr", {}, element("th", { scope: "row" }, row.queue), element("td", { class: "num" }, String(row.messages)), element("td", { class: "num" }, String(row.consumers))),
      ),
    );
    const dead = await get("/api/v1/dead");
    of("#dead tbody").replaceChildren(
      ...dead.rows.map((row) => {
        const retry = element("button", { type: "button" }, "Retry");
        onClick(retry, async () => {
          await send("POST", `/api/v1/dead/${encodeURIComponent(row.id)}/retry`, {});
          await look();
        });
        return element("tr", {}, element("th", { scope: "row" }, row.experiment), element("td", {}, row.kind), element("td", {}, row.reason), element("td", {}, retry));
      }),
    );
  };
  look().catch((failure) => notice(failure.message));
  repeat(5, look);
  onClick(of("#back-up"), async () => notice(`Backed up ${number.format((await send("POST", "/api/v1/backups", {})).events)} events.`));
  onClick(of("#verify"), async () => {
    const { events, findings } = await send("POST", "/api/v1/verifications", {});
    notice(findings.length ? `${findings.length} findings: use dissent log verify.` : `${number.format(events)} events are sound.`);
  });
}

// People.

if (page === "people") {
  const days = 90;
  const isAdmin = of("#add") !== null;
  const showSecret = (about, text) => {
    of("#secret-about").textContent = about;
    of("#secret-text").textContent = text;
    of("#secret").showModal();
  };
  const date = (seconds) => (seconds ? new Date(seconds * 1000).toLocaleDateString() : "never");
  const order = (name, work, kind = "plain") => {
    const button = element("button", { type: "button", class: kind }, name);
    onClick(button, work);
    return button;
  };
  const look = async () => {
    const { rows } = await get("/api/v1/people?limit=1000");
    of("#people tbody").replaceChildren(
      ...rows.map((person) => {
        const path = `/api/v1/people/${person.id}`;
        const orders = element("td");
        if (isAdmin ? person.role !== "admin" : person.role === "annotator") {
          orders.append(order("Personal link", async () => {
            const link = await send("POST", `${path}/links`, { days });
            showSecret(`This link signs ${person.name} in, for ${days} days.`, location.origin + link.path);
          }));
        }
        if (isAdmin) {
          orders.append(
            order("Invitation", async () => {
              const made = await send("POST", `${path}/invitation`, { days: 7 });
              showSecret(`With this link ${person.name} sets a password, within 7 days.`, location.origin + made.path);
            }),
            order(person.disabled ? "Enable" : "Disable", async () => {
              await send("PATCH", path, { disabled: !person.disabled });
              await look();
            }),
            order("Erase", async () => {
              if (!confirm(`Erase ${person.name}? Name, links and tokens go; judgements and their comments stay. This cannot be undone.`)) return;
              await send("DELETE", path);
              await look();
            }, "plain danger"),
          );
        }
        const role = person.disabled ? `${person.role}, disabled` : person.role;
        return element("tr", {}, element("th", { scope: "row" }, person.name), element("td", {}, role), element("td", {}, person.has_password ? "set" : "none"), orders);
      }),
    );
    const tokens = await get("/api/v1/tokens");
    of("#tokens tbody").replaceChildren(
      ...tokens.rows.map((token) =>
        element(
          "tr", {}, element("th", { scope: "row" }, token.name), element("td", {}, token.scope.join(", ")),
          element("td", {}, date(token.expires_at)), element("td", {}, date(token.used_at)),
          element("td", {}, order("Revoke", async () => {
            await send("DELETE", `/api/v1/tokens/${token.id}`);
            await look();
          })),
        ),
      ),
    );
  };
  look().catch((failure) => notice(failure.message));
  onSubmit("#add", async (form, data) => {
    await send("POST", "/api/v1/people", { name: data.get("name"), role: data.get("role") });
    form.reset();
    await look();
  });
  onSubmit("#token", async (form, data) => {
    const body = { name: data.get("name"), scope: data.getAll("scope"), days: Number(data.get("days")) };
    const made = await send("POST", "/api/v1/tokens", body);
    form.reset();
    showSecret("Programs send this token as “Authorization: Bearer …”.", made.token);
    await look();
  });
}
