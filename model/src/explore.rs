//! Every state that can be reached, breadth first; and from which of them a good end can be.
//!
//! Of a state that was expanded only a fingerprint of 128 bits is kept, with the state that it was first reached from: that
//! is enough to tell the way to it again.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasherDefault, Hash as _, Hasher},
    num::NonZero,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use siphasher::sip128::{Hasher128 as _, SipHasher13};

use crate::{good, model::Model, state::State, steps::Step};

/// What was found.
#[derive(Debug)]
pub struct Report {
    /// The configuration.
    pub name: &'static str,
    /// How many states there are.
    pub states: usize,
    /// How many steps between them.
    pub transitions: usize,
    /// How many steps the farthest is away.
    pub depth: usize,
    /// In how many of them a good end is reached.
    pub good: usize,
    /// How many of them are different to one controller, and so had it plan.
    pub planned: usize,
    /// How long it took.
    pub took: Duration,
    /// What is wrong; None: nothing.
    pub wrong: Option<Wrong>,
}

/// What is wrong, and how it comes to that.
#[derive(Debug)]
pub struct Wrong {
    /// The promise.
    pub promise: String,
    /// The steps to it, each with what is different after it.
    pub way: Vec<String>,
}

impl Report {
    /// What stands above the columns of its line.
    pub const HEAD: &str =
        "configuration |     states |       steps | depth | good ends | rounds planned | seconds";
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:13} | {:>10} | {:>11} | {:>5} | {:>9} | {:>14} | {:>7.1}",
            self.name,
            self.states,
            self.transitions,
            self.depth,
            self.good,
            self.planned,
            self.took.as_secs_f64()
        )
    }
}

type Fingerprint = [u32; 4];

fn fingerprint(state: &State) -> Fingerprint {
    let mut hasher = SipHasher13::new();
    state.hash(&mut hasher);
    let hash = hasher.finish128();
    let half = |n: u64| [(n >> 32) as u32, n as u32];
    let ([a, b], [c, d]) = (half(hash.h1), half(hash.h2));
    [a, b, c, d]
}

/// A fingerprint is its own hash.
#[derive(Default)]
struct Own(u64);

impl Hasher for Own {
    fn write(&mut self, bytes: &[u8]) {
        let tail = bytes.iter().rev().take(8);
        self.0 = tail.fold(0, |hash, byte| hash << 8 | u64::from(*byte));
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

const SHARDS: usize = 256;

/// The numbers of the states that were reached.
struct Reached {
    shards: Vec<Mutex<HashMap<Fingerprint, u32, BuildHasherDefault<Own>>>>,
    count: AtomicU32,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reached {
    fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            count: AtomicU32::new(0),
        }
    }

    /// The number of a state, and whether it is new.
    fn number(&self, state: &State) -> (u32, bool) {
        let fingerprint = fingerprint(state);
        let mut shard = lock(&self.shards[fingerprint[0] as usize % SHARDS]);
        if let Some(number) = shard.get(&fingerprint) {
            return (*number, false);
        }
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        shard.insert(fingerprint, number);
        (number, true)
    }
}

/// What one thread has found in one level.
#[derive(Default)]
struct Found {
    next: Vec<(u32, u32, State)>,
    /// For each state: its number, whether it is a good end, how many regular steps lead on, and where to.
    edges: Vec<u32>,
    transitions: usize,
    broken: Option<(u32, Step, String)>,
}

/// Explores everything, and tells `progress` the depth and the number of states after each level. It ends early where a
/// promise is broken, or where there are more than `most` states.
///
/// # Errors
/// Where the model cannot even begin.
pub fn explore(model: &Model, most: usize, progress: impl Fn(usize, usize)) -> anyhow::Result<Report> {
    let begun = Instant::now();
    let first = model.first()?;
    let reached = Reached::new();
    reached.number(&first);
    let mut from: Vec<u32> = vec![0];
    let mut level = vec![(0_u32, first)];
    let mut edges: Vec<Vec<u32>> = Vec::new();
    let (mut depth, mut transitions, mut broken) = (0, 0, None);
    while !level.is_empty() && broken.is_none() && from.len() <= most {
        let found = expand(model, &reached, &level);
        from.resize(reached.count.load(Ordering::Relaxed) as usize, 0);
        level.clear();
        for one in found {
            transitions += one.transitions;
            edges.push(one.edges);
            for (number, before, state) in one.next {
                from[number as usize] = before;
                level.push((number, state));
            }
            broken = broken.or(one.broken);
        }
        depth += usize::from(!level.is_empty());
        progress(depth, from.len());
    }
    let states = from.len();
    let way = |to: u32| tell(model, &reached, &from, to);
    let (mut good, mut wrong) = (0, None);
    if let Some((number, step, promise)) = broken {
        let mut way = way(number)?;
        way.push(step.to_string());
        wrong = Some(Wrong { promise, way });
    } else if states > most {
        wrong = Some(Wrong {
            promise: format!("truncated: more than {most} states"),
            way: Vec::new(),
        });
    } else {
        let ends = Ends::of(states, &edges);
        good = ends.good;
        if let Some(stuck) = ends.stuck {
            wrong = Some(Wrong {
                promise: "L1: no way leads to a good end any more".to_owned(),
                way: way(stuck)?,
            });
        }
    }
    Ok(Report {
        name: model.config.name,
        states,
        transitions,
        depth,
        good,
        planned: model.rounds.len(),
        took: begun.elapsed(),
        wrong,
    })
}

fn expand(model: &Model, reached: &Reached, level: &[(u32, State)]) -> Vec<Found> {
    const CHUNK: usize = 64;
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let taken = AtomicUsize::new(0);
    let work = || {
        let mut found = Found::default();
        loop {
            let begin = taken.fetch_add(CHUNK, Ordering::Relaxed);
            let Some(chunk) = level
                .get(begin..level.len().min(begin + CHUNK))
                .filter(|c| !c.is_empty())
            else {
                return found;
            };
            for (number, state) in chunk {
                found.expand(model, reached, *number, state);
            }
        }
    };
    if level.len() < 4 * CHUNK || threads == 1 {
        return vec![work()];
    }
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let join = |worker: thread::ScopedJoinHandle<'_, Found>| match worker.join() {
            Ok(found) => found,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        workers.into_iter().map(join).collect()
    })
}

impl Found {
    fn expand(&mut self, model: &Model, reached: &Reached, number: u32, state: &State) {
        let next = model.next(state);
        if let Some((step, promise)) = next.broken {
            self.broken.get_or_insert((number, step, promise));
            return;
        }
        self.transitions += next.steps.len();
        self.edges
            .extend([number, u32::from(good::is_good(model, state)), 0]);
        let count = self.edges.len() - 1;
        for (step, after) in next.steps {
            let (to, new) = reached.number(&after);
            if new {
                self.next.push((to, number, after));
            }
            if step.is_regular() {
                self.edges.push(to);
                self.edges[count] += 1;
            }
        }
    }
}

/// From where a good end can be reached.
struct Ends {
    good: usize,
    /// The first state from which none can.
    stuck: Option<u32>,
}

impl Ends {
    fn of(states: usize, edges: &[Vec<u32>]) -> Self {
        let each = |visit: &mut dyn FnMut(u32, bool, &[u32])| {
            for edges in edges {
                let mut rest = edges.as_slice();
                while let [number, good, count, tail @ ..] = rest {
                    let (to, tail) = tail.split_at(*count as usize);
                    visit(*number, *good == 1, to);
                    rest = tail;
                }
            }
        };
        // The edges backwards: where those into each state begin, then where they come from.
        let mut begin = vec![0_u32; states + 1];
        each(&mut |_, _, to| to.iter().for_each(|to| begin[*to as usize + 1] += 1));
        for i in 0..states {
            begin[i + 1] += begin[i];
        }
        let mut from = vec![0_u32; begin[states] as usize];
        let mut free = begin.clone();
        let (mut saved, mut open, mut good) = (vec![false; states], Vec::new(), 0);
        each(&mut |number, is_good, to| {
            for to in to {
                from[free[*to as usize] as usize] = number;
                free[*to as usize] += 1;
            }
            if is_good {
                good += 1;
                saved[number as usize] = true;
                open.push(number);
            }
        });
        while let Some(number) = open.pop() {
            let number = number as usize;
            for before in &from[begin[number] as usize..begin[number + 1] as usize] {
                if !std::mem::replace(&mut saved[*before as usize], true) {
                    open.push(*before);
                }
            }
        }
        let stuck = saved.iter().position(|saved| !saved);
        Self {
            good,
            stuck: stuck.and_then(|number| u32::try_from(number).ok()),
        }
    }
}

/// The way to a state, from the first.
fn tell(model: &Model, reached: &Reached, from: &[u32], to: u32) -> anyhow::Result<Vec<String>> {
    let mut numbers = vec![to];
    while let Some(number) = numbers.last().filter(|number| **number != 0) {
        numbers.push(from[*number as usize]);
    }
    let mut state = model.first()?;
    let mut way = Vec::new();
    for number in numbers.into_iter().rev().skip(1) {
        let next = model.next(&state).steps;
        let Some((step, after)) = next
            .into_iter()
            .find(|(_, after)| reached.number(after).0 == number)
        else {
            anyhow::bail!("the way to state {number} is lost");
        };
        way.push(crate::tell::line(model, step, &state, &after));
        state = after;
    }
    Ok(way)
}
