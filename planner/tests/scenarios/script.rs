//! The language of the scenario scripts, as `README.md` beside this describes it: text in, a [`Story`] out.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use api::plan::UpdatePlanSpec;
use chrono::{DateTime, Datelike, Days, NaiveDate, NaiveTime, TimeDelta, TimeZone, Utc, Weekday};
use chrono_tz::Tz;
use planner::{
    simulate::{Ask, Fault, Group, Happening, Story, Timing, ToNode},
    world::Settings,
};
use serde_json::Value;

/// A script, read.
pub struct Script {
    /// What it shows: the comment at its beginning.
    pub about: String,
    /// Whose times it speaks in.
    pub zone: Tz,
    /// What is simulated.
    pub story: Story,
    /// Whether its text has no lines about nodes that wait.
    pub hides_waits: bool,
}

/// One command with the lines that belong to it.
struct Command {
    line: usize,
    words: Vec<String>,
    body: String,
}

struct Reader {
    zone: Tz,
    start: Option<DateTime<Utc>>,
    end: Option<DateTime<Utc>>,
    seed: u64,
    hides_waits: bool,
    fleet: Vec<Group>,
    events: Vec<(DateTime<Utc>, Happening)>,
    /// The time of the last event.
    now: Option<DateTime<Utc>>,
    /// Each plan's spec as edited so far.
    specs: BTreeMap<String, Value>,
    /// How long each node's steps take by now.
    timings: BTreeMap<String, Timing>,
}

/// Reads a script; the error names the line.
pub fn read(text: &str) -> Result<Script> {
    let about = text
        .lines()
        .map_while(|line| line.strip_prefix('#'))
        .map(str::trim)
        .collect::<Vec<_>>()
        .join(" ");
    let mut reader = Reader {
        zone: Tz::UTC,
        start: None,
        end: None,
        seed: 0,
        hides_waits: false,
        fleet: Vec::new(),
        events: Vec::new(),
        now: None,
        specs: BTreeMap::new(),
        timings: BTreeMap::new(),
    };
    for command in commands(text)? {
        let line = command.line;
        reader
            .read(&command)
            .with_context(|| format!("line {line}: {:?}", command.words.join(" ")))?;
    }
    ensure!(
        !about.is_empty(),
        "a script begins with a comment that says what it shows"
    );
    Ok(Script {
        about,
        zone: reader.zone,
        hides_waits: reader.hides_waits,
        story: Story {
            start: reader.start.ok_or_else(|| anyhow!("there is no start"))?,
            end: reader.end.ok_or_else(|| anyhow!("there is no end"))?,
            settings: Settings::default(),
            seed: reader.seed,
            fleet: reader.fleet,
            events: reader.events,
        },
    })
}

/// A command begins in the first column; what is indented, or a list, belongs to the command before.
fn commands(text: &str) -> Result<Vec<Command>> {
    let mut commands: Vec<Command> = Vec::new();
    for (i, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if line.starts_with([' ', '-']) {
            let command = commands
                .last_mut()
                .ok_or_else(|| anyhow!("line {}: belongs to nothing", i + 1))?;
            command.body += line;
            command.body += "\n";
        } else {
            let words = line.split(" #").next().unwrap_or_default();
            commands.push(Command {
                line: i + 1,
                words: words.split_whitespace().map(str::to_owned).collect(),
                body: String::new(),
            });
        }
    }
    Ok(commands)
}

impl Reader {
    fn read(&mut self, command: &Command) -> Result<()> {
        let words: Vec<&str> = command.words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["zone", zone] => self.zone = zone.parse().map_err(|_| anyhow!("no such zone"))?,
            ["start", date, clock] => {
                let start = self.instant(self.date(date)?, self.clock(clock)?)?;
                self.start = Some(start);
                self.now = Some(start);
            }
            ["end", when @ ..] => {
                let (end, rest) = self.time(when)?;
                ensure!(rest.is_empty(), "what is {rest:?}?");
                self.end = Some(end);
            }
            ["seed", seed] => self.seed = seed.parse()?,
            ["hide", "waits"] => self.hides_waits = true,
            ["fleet"] => {
                self.fleet = yaml(&command.body)?;
                let machines = self.fleet.iter().flat_map(Group::machines);
                self.timings = machines.map(|m| (m.name, m.timing)).collect();
            }
            ["plan", ..] => {
                let at = self.now.ok_or_else(|| anyhow!("a plan comes after start"))?;
                self.event(at, &words, &command.body)?;
            }
            when => {
                let (at, rest) = self.time(when)?;
                self.now = Some(at);
                self.event(at, rest, &command.body)?;
            }
        }
        Ok(())
    }

    /// `08:05`, `08:05:30`, `Mon 08:05`, `2026-11-23 08:05` or `+5m`: the first such instant that is not before the last.
    fn time<'a>(&self, words: &'a [&'a str]) -> Result<(DateTime<Utc>, &'a [&'a str])> {
        let last = self.now.ok_or_else(|| anyhow!("the script begins with start"))?;
        let today = last.with_timezone(&self.zone).date_naive();
        let (days, clock, rest): (Vec<NaiveDate>, _, _) = match words {
            [after, rest @ ..] if after.starts_with('+') => {
                let after: api::quantity::Span = after[1..].parse()?;
                return Ok((last + after.delta(), rest));
            }
            [date, clock, rest @ ..] if date.len() == 10 => (vec![self.date(date)?], clock, rest),
            [clock, rest @ ..] if clock.contains(':') => {
                (vec![today, today.succ_opt().unwrap_or(today)], clock, rest)
            }
            [day, clock, rest @ ..] => {
                let day: Weekday = day
                    .parse()
                    .map_err(|_| anyhow!("{day:?} is neither a time nor a command"))?;
                let week = (0..8).map(|days| today + Days::new(days));
                (week.filter(|date| date.weekday() == day).collect(), clock, rest)
            }
            _ => bail!("no time, and no command"),
        };
        let clock = self.clock(clock)?;
        for day in days {
            let at = self.instant(day, clock)?;
            if at >= last {
                return Ok((at, rest));
            }
        }
        bail!("that is before the event that comes before it")
    }

    fn date(&self, text: &str) -> Result<NaiveDate> {
        text.parse().with_context(|| format!("{text:?} is no date"))
    }

    fn clock(&self, text: &str) -> Result<NaiveTime> {
        let whole = if text.len() == 5 {
            format!("{text}:00")
        } else {
            text.to_owned()
        };
        whole
            .parse()
            .with_context(|| format!("{text:?} is no time of day"))
    }

    fn instant(&self, day: NaiveDate, clock: NaiveTime) -> Result<DateTime<Utc>> {
        let there = self.zone.from_local_datetime(&day.and_time(clock));
        let there = there
            .earliest()
            .ok_or_else(|| anyhow!("{day} {clock} is skipped in {}", self.zone))?;
        Ok(there.with_timezone(&Utc))
    }

    fn event(&mut self, at: DateTime<Utc>, words: &[&str], body: &str) -> Result<()> {
        let happens = self.happening(words, body)?;
        self.events.extend(happens.into_iter().map(|what| (at, what)));
        Ok(())
    }

    fn happening(&mut self, words: &[&str], body: &str) -> Result<Vec<Happening>> {
        Ok(match words {
            ["show"] => vec![Happening::Look],
            ["plan", name] => vec![self.apply(name, yaml(body)?)?],
            ["edit", name] => vec![self.edit(name, yaml(body)?)?],
            ["pause", name] => vec![self.edit(name, serde_json::json!({"paused": true}))?],
            ["resume", name] => vec![self.edit(name, serde_json::json!({"paused": false}))?],
            ["delete", "plan", name] => {
                self.specs.remove(*name);
                vec![Happening::DeletePlan {
                    plan: (*name).to_owned(),
                }]
            }
            ["approve", plan, wave] => vec![ask(plan, Ask::Approve((*wave).to_owned()))],
            ["retry", plan, token] => vec![ask(plan, Ask::Retry((*token).to_owned()))],
            ["run-now", plan] => vec![ask(plan, Ask::RunNow)],
            ["join"] => {
                let groups: Vec<Group> = yaml(body)?;
                let machines = groups.iter().flat_map(Group::machines);
                let joins = machines.map(|machine| {
                    self.timings.insert(machine.name.clone(), machine.timing);
                    Happening::Join(Box::new(machine))
                });
                joins.collect()
            }
            ["watches", "stall"] => vec![Happening::Stall(true)],
            ["watches", "catch-up"] => vec![Happening::Stall(false)],
            ["ledger", "lost"] => vec![Happening::LedgerLost],
            ["install", "stop"] => vec![Happening::Stop(true)],
            ["install", "go-on"] => vec![Happening::Stop(false)],
            ["install", "stage-ahead", limit] => vec![Happening::StageAhead(limit.parse()?)],
            ["install", "max-unavailable", limit] => vec![Happening::MaxUnavailable(Some(limit.parse()?))],
            ["clock", "unknown"] => vec![Happening::ClockSkew(None)],
            ["clock", skew] => {
                let seconds = skew.strip_suffix('s').and_then(|digits| digits.parse().ok());
                let seconds = seconds.ok_or_else(|| anyhow!("give the seconds, such as +31s"))?;
                vec![Happening::ClockSkew(Some(TimeDelta::seconds(seconds)))]
            }
            [verb, nodes, arguments @ ..] => {
                let nodes: Vec<String> = match *nodes {
                    "*" => self.timings.keys().cloned().collect(),
                    nodes => nodes.split(',').map(str::to_owned).collect(),
                };
                let mut happens = Vec::new();
                for node in nodes {
                    let what = self.node_happens(verb, &node, arguments)?;
                    happens.push(Happening::Node { node, what });
                }
                happens
            }
            _ => bail!("no such command"),
        })
    }

    fn node_happens(&mut self, verb: &str, node: &str, arguments: &[&str]) -> Result<ToNode> {
        Ok(match (verb, arguments) {
            ("cordon", []) => ToNode::Cordon,
            ("uncordon", []) => ToNode::Uncordon,
            ("delete", []) => ToNode::Delete,
            ("replace", [version]) => ToNode::Replace {
                version: (*version).to_owned(),
            },
            ("opt-out", [_, ..]) => ToNode::OptOut(Some(arguments.join(" "))),
            ("opt-in", []) => ToNode::OptOut(None),
            ("offer", [version]) => ToNode::Offer((*version).to_owned()),
            ("recall", [version]) => ToNode::Recall((*version).to_owned()),
            ("crash", []) => ToNode::Crash,
            ("unready", []) => ToNode::NotReady,
            ("ready", []) => ToNode::Ready,
            ("mend", []) => ToNode::Mend,
            ("break", [fault]) => ToNode::Break(yaml::<Fault>(fault)?, u32::MAX),
            ("break", [fault, times]) => {
                let times = times.strip_prefix('x').and_then(|n| n.parse().ok());
                ToNode::Break(
                    yaml::<Fault>(fault)?,
                    times.ok_or_else(|| anyhow!("give the times, such as x2"))?,
                )
            }
            ("label", [change]) => {
                let (key, value) = key_value(change)?;
                ToNode::Label(key, value)
            }
            ("annotate", [change]) => {
                let (key, value) = key_value(change)?;
                ToNode::Annotate(key, value)
            }
            ("slow", [_, ..]) => {
                let timing = self.timings.entry(node.to_owned()).or_default();
                for change in arguments {
                    let (step, span) = change.split_once('=').ok_or_else(|| anyhow!("say how slow"))?;
                    let span = span.parse::<api::quantity::Span>()?.delta();
                    *match step {
                        "agent" => &mut timing.agent,
                        "stage" => &mut timing.stage,
                        "drain" => &mut timing.drain,
                        "reboot" => &mut timing.reboot,
                        "ready" => &mut timing.ready,
                        _ => bail!("no step {step:?}"),
                    } = span;
                }
                ToNode::Retime(*timing)
            }
            _ => bail!("no such command"),
        })
    }

    fn apply(&mut self, name: &str, spec: Value) -> Result<Happening> {
        let parsed: UpdatePlanSpec = serde_json::from_value(spec.clone())?;
        self.specs.insert(name.to_owned(), spec);
        Ok(Happening::Apply {
            plan: name.to_owned(),
            spec: Box::new(parsed),
        })
    }

    fn edit(&mut self, name: &str, patch: Value) -> Result<Happening> {
        let mut spec = self
            .specs
            .get(name)
            .cloned()
            .ok_or_else(|| anyhow!("there is no plan {name}"))?;
        merge(&mut spec, patch);
        self.apply(name, spec)
    }
}

fn ask(plan: &str, what: Ask) -> Happening {
    let plan = plan.to_owned();
    Happening::Ask { plan, what }
}

/// `key=value`, or `key-` where it is taken away.
fn key_value(change: &str) -> Result<(String, Option<String>)> {
    match (change.split_once('='), change.strip_suffix('-')) {
        (Some((key, value)), _) => Ok((key.to_owned(), Some(value.to_owned()))),
        (None, Some(key)) => Ok((key.to_owned(), None)),
        (None, None) => bail!("give key=value, or key- to take it away"),
    }
}

fn yaml<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    Ok(serde_saphyr::from_str(text)?)
}

/// A JSON merge patch: null takes a field away.
fn merge(into: &mut Value, patch: Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    into.remove(&key);
                } else {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (into, patch) => *into = patch,
    }
}
