//! A state: numbers only. Every value in it stands in a [`crate::table::Table`], where equal values have equal numbers.

/// The number of a value; 0 is none.
pub type Id = u32;

/// The most nodes.
pub const NODES: usize = 3;
/// The most plans.
pub const PLANS: usize = 2;
/// The most controllers.
pub const CONTROLLERS: usize = 2;
/// The most writes of one controller under way: one for each kind of object.
pub const WRITES: usize = 3;
/// The most writes under way whose controller has ended.
pub const LATE: usize = 2;
/// The kinds of faults.
pub const KINDS: usize = 10;

/// The ledger, taken apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ledger {
    /// Everything but plans and grants; 0 where there is no ledger.
    pub rest: Id,
    /// What it records of each plan.
    pub entries: [Id; PLANS],
    /// The grant of each node.
    pub grants: [Id; NODES],
}

/// A node with all that belongs to it, as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Node {
    /// The Node.
    pub object: Id,
    /// Its shadow.
    pub shadow: Id,
    /// The machine.
    pub host: Id,
    /// Its agent; 0 while it does not run.
    pub agent: Id,
    /// What the checks remember.
    pub ghost: Id,
    /// How many pods are on it that may not stay.
    pub pods: u8,
    /// The permit that the agent asks for, and one that an agent before it has asked for.
    pub asked: [Asked; 2],
}

/// A request for a permit, at work in an apiserver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Asked {
    /// How far it is.
    pub id: Id,
    /// Whether the ledger is still at the version that was read.
    pub unchanged: bool,
}

/// A write under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Write {
    /// What is written; 0: nothing.
    pub key: u8,
    /// What it makes of it.
    pub id: Id,
    /// Whether the object is still at the version that was decided on.
    pub unchanged: bool,
    /// Whether a tick has passed since it was sent. Its time-out is shorter than two.
    pub aged: bool,
}

/// A write of the ledger under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Swap {
    /// Whether there is one.
    pub sent: bool,
    /// What it makes of the ledger.
    pub ledger: Ledger,
    /// Whether it names the version that it is decided on.
    pub fenced: bool,
    /// Whether the ledger is still at that version.
    pub unchanged: bool,
    /// Whether grants are among the changes.
    pub grants: bool,
    /// Whether a tick has passed since it was sent.
    pub aged: bool,
}

/// A drain that a controller runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Drain {
    /// For which cordon; 0: it runs none.
    pub cordon: Id,
    /// How many pods it has found, plus 1; 0: it has not looked.
    pub found: u8,
}

/// Who sees late what others write.
#[derive(Clone, Copy, Debug)]
pub struct Lag {
    /// So many controllers.
    pub controllers: usize,
    /// So many objects of each, at most, at once.
    pub objects: usize,
}

impl Lag {
    /// Whether this controller may now see one more object late.
    fn allows(self, c: usize, controller: &Controller) -> bool {
        let known = controller
            .plans
            .iter()
            .chain(&controller.nodes)
            .chain(&controller.shadows);
        let late = known.filter(|known| **known != 0).count() + usize::from(controller.ledger.is_some());
        c < self.controllers && late < self.objects
    }
}

/// A controller. What it knows of an object is 0 where it knows it as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Controller {
    /// Whether it knows an older ledger than there is: then this one.
    pub ledger: Option<Ledger>,
    /// What it knows of each plan.
    pub plans: [Id; PLANS],
    /// What it knows of each node.
    pub nodes: [Id; NODES],
    /// What it knows of each shadow.
    pub shadows: [Id; NODES],
    /// Its drains.
    pub drains: [Drain; NODES],
    /// Its write of the ledger; it waits for that.
    pub swap: Swap,
    /// Its other writes.
    pub writes: [Write; WRITES],
    /// Whether it has listed the nodes within this tick.
    pub fresh: bool,
    /// Whether it has read everything since the ledger that it knows was written, which somebody else did.
    pub caught_up: bool,
    /// How often it has ended before: the ledger's writer has another name each time.
    pub term: u8,
}

/// Everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    /// The tick.
    pub now: u16,
    /// How often each fault has happened.
    pub faults: [u8; KINDS],
    /// What people have done, by index.
    pub deeds: u16,
    /// The plans; 0 where one is gone.
    pub plans: [Id; PLANS],
    /// The ledger.
    pub ledger: Ledger,
    /// The nodes.
    pub nodes: [Node; NODES],
    /// The controllers.
    pub controllers: [Controller; CONTROLLERS],
    /// Writes of controllers that have ended.
    pub late: [Write; LATE],
    /// The write of the ledger of a controller that has ended.
    pub late_swap: Swap,
}

/// An object that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A plan.
    Plan(usize),
    /// A node.
    Node(usize),
    /// A node's shadow.
    Shadow(usize),
}

impl Key {
    /// As a number; never 0.
    #[must_use]
    pub fn number(self) -> u8 {
        let n = match self {
            Self::Plan(i) => 1 + i,
            Self::Node(i) => 1 + PLANS + i,
            Self::Shadow(i) => 1 + PLANS + NODES + i,
        };
        u8::try_from(n).unwrap_or_default()
    }

    /// From a number.
    #[must_use]
    pub fn of(number: u8) -> Option<Self> {
        let n = usize::from(number).checked_sub(1)?;
        Some(if n < PLANS {
            Self::Plan(n)
        } else if n < PLANS + NODES {
            Self::Node(n - PLANS)
        } else {
            Self::Shadow(n - PLANS - NODES)
        })
    }
}

impl State {
    /// The object as it is.
    #[must_use]
    pub fn object(&self, key: Key) -> Id {
        match key {
            Key::Plan(i) => self.plans[i],
            Key::Node(i) => self.nodes[i].object,
            Key::Shadow(i) => self.nodes[i].shadow,
        }
    }

    fn object_mut(&mut self, key: Key) -> &mut Id {
        match key {
            Key::Plan(i) => &mut self.plans[i],
            Key::Node(i) => &mut self.nodes[i].object,
            Key::Shadow(i) => &mut self.nodes[i].shadow,
        }
    }

    /// Changes an object. Whoever has seen it and lags sees it as it was; the writer gets it with the answer. What was
    /// decided on it is refused from now on.
    pub fn write(&mut self, key: Key, id: Id, lag: Lag, writer: Option<usize>) {
        let before = std::mem::replace(self.object_mut(key), id);
        for (c, controller) in self.controllers.iter_mut().enumerate() {
            let lags = lag.allows(c, controller);
            let known = controller.known_mut(key);
            if writer == Some(c) {
                *known = 0;
            } else if lags && *known == 0 {
                *known = before;
            }
            for write in &mut controller.writes {
                write.unchanged &= write.key != key.number();
            }
        }
        for write in &mut self.late {
            write.unchanged &= write.key != key.number();
        }
    }

    /// Changes the ledger, likewise.
    pub fn write_ledger(&mut self, ledger: Ledger, lag: Lag, writer: Option<usize>) {
        let before = std::mem::replace(&mut self.ledger, ledger);
        for (c, controller) in self.controllers.iter_mut().enumerate() {
            if writer == Some(c) {
                controller.ledger = None;
                controller.caught_up = false;
            } else if controller.ledger.is_none() {
                if lag.allows(c, controller) {
                    controller.ledger = Some(before);
                } else {
                    controller.caught_up = false;
                }
            }
            controller.swap.unchanged = false;
        }
        self.late_swap.unchanged = false;
        for node in &mut self.nodes {
            for asked in &mut node.asked {
                asked.unchanged = false;
            }
        }
    }

    /// How many faults have happened.
    #[must_use]
    pub fn faults_in_all(&self) -> u8 {
        self.faults.iter().sum()
    }
}

impl Controller {
    /// What it knows of an object; 0: the object as it is.
    #[must_use]
    pub fn known(&self, key: Key) -> Id {
        match key {
            Key::Plan(i) => self.plans[i],
            Key::Node(i) => self.nodes[i],
            Key::Shadow(i) => self.shadows[i],
        }
    }

    /// The same, to change it.
    pub fn known_mut(&mut self, key: Key) -> &mut Id {
        match key {
            Key::Plan(i) => &mut self.plans[i],
            Key::Node(i) => &mut self.nodes[i],
            Key::Shadow(i) => &mut self.shadows[i],
        }
    }

    /// Whether a write of this object is under way.
    #[must_use]
    pub fn is_writing(&self, key: Key) -> bool {
        self.writes.iter().any(|write| write.key == key.number())
    }
}
