//! Who runs a guest that is moved: the two ends' part of the protocol, as pure functions of
//! what happens.
//!
//! ```text
//!   source                                      target
//!   Running ─── Offer ────────────────────────▶ checks; Accept or Refuse
//!     │     ◀── Accept ───────────────────────  Receiving (written down)
//!     │     ─── pages, rounds ────────────────▶
//!   asks its guest to suspend (written down)
//!   Suspended ─ the rest, Finished ───────────▶
//!     │     ◀── Ready ────────────────────────  Ready: all there, with its devices, paused
//!   ─ ─ ─ ─ ─ until here the source lets its guest go on after any failure ─ ─ ─ ─ ─
//!   Doubt (written down) ─ Commit ────────────▶ Running (written down): the commit point
//!     │     ◀── Running ──────────────────────  lets it run
//!   takes its guest away, then Gone (written down)
//!
//!   Doubt ───── Ask, on new connections ──────▶ Ready and Running: as after Commit
//!     │     ◀── Running, Gone ────────────────  Receiving: takes it away, Gone
//! ```
//!
//! # Invariants
//! 1. *Never two*. The target lets its guest run only after `Commit` (or `Ask`, which a source
//!    sends only after `Commit`). The source, once it has sent `Commit`, lets its own run only
//!    when the target has said `Gone`; and a target that has said `Gone` has taken its guest
//!    away, and never runs it.
//! 2. *Never none*. Until `Commit` the source alone decides, and any failure (link, refusal,
//!    cancel, its own crash) lets its guest go on. After it, the target alone decides, once:
//!    `Running` or `Gone`. A target that loses the link before `Commit` arrives decides
//!    `Gone`. So a source in doubt learns the answer as soon as it reaches the target: it asks
//!    until then, however long that takes; its guest rests meanwhile.
//! 3. Each end writes down, before it acts on it, what it must not forget: the source that it asks
//!    its guest to suspend, slows it down, is in doubt; the target that it makes a domain, that it
//!    runs the guest. Whoever finds that written down by a process that is no more goes on from
//!    there ([`super::recover`]).
//! 4. Only who had the guest can say `Gone`: a host that does not know the move is believed only if
//!    its records are those of the host that accepted it ([`super::status::host`]).
//!
//! Only one thing cannot be decided by machines: a target that is lost for ever in the moment
//! between `Commit` and its answer. Then the source's guest stays suspended, with everything that
//! belongs to it, until somebody who knows that the target is dead says so (`overcast
//! migrate-recover --abandoned`).

use serde::{Deserialize, Serialize};

/// From the source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ToTarget {
    /// The stream is complete.
    Finished,
    /// Run it.
    Commit,
    /// What became of it? (On a new connection, after [`ToTarget::Commit`].)
    Ask,
}

/// From the target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ToSource {
    /// All is there.
    Ready,
    /// It runs here.
    Running,
    /// It is not here, and will not be.
    Gone,
}

/// The source's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The guest runs; pages are sent, maybe.
    Running,
    /// The guest is suspended, and the target is not told to run it.
    Suspended,
    /// The target was told.
    Doubt,
    /// The guest goes on here, for good.
    Stayed,
    /// The guest runs at the target, for good.
    Gone,
}

/// What happens at the source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SourceEvent {
    /// The guest is suspended, and all was sent.
    Suspended,
    /// The target says something.
    Heard(ToSource),
    /// The link is cut, the user cancels, something fails.
    Failed,
    /// The end starts anew, with what it wrote down.
    Restarted,
    /// Somebody knows that the target is dead.
    Abandoned,
}

/// What the source does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SourceAction {
    /// Nothing.
    Nothing,
    /// Tell the target.
    Send(ToTarget),
    /// Write down that it is in doubt, then send `Commit`.
    Commit,
    /// Connect anew, and ask.
    Ask,
    /// Let the guest go on, if it is suspended.
    Resume,
    /// Take the guest away.
    Remove,
}

impl Source {
    /// What comes next.
    pub fn on(self, event: SourceEvent) -> (Self, SourceAction) {
        use SourceAction::{Ask, Commit, Nothing, Remove, Resume, Send};
        match (self, event) {
            (Self::Stayed | Self::Gone, _) => (self, Nothing),
            (Self::Running, SourceEvent::Suspended) => (Self::Suspended, Send(ToTarget::Finished)),
            (Self::Suspended, SourceEvent::Heard(ToSource::Ready)) => (Self::Doubt, Commit),
            (Self::Suspended, SourceEvent::Suspended) => (self, Nothing),
            (Self::Running | Self::Suspended, _) => (Self::Stayed, Resume),
            (Self::Doubt, SourceEvent::Heard(ToSource::Running)) => (Self::Gone, Remove),
            (Self::Doubt, SourceEvent::Heard(ToSource::Gone) | SourceEvent::Abandoned) => {
                (Self::Stayed, Resume)
            }
            (Self::Doubt, SourceEvent::Failed | SourceEvent::Restarted) => (self, Ask),
            (Self::Doubt, SourceEvent::Suspended | SourceEvent::Heard(ToSource::Ready)) => {
                (self, Nothing)
            }
        }
    }
}

/// The target's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// Being put together.
    Receiving,
    /// All there, paused.
    Ready,
    /// Here, for good.
    Running,
    /// Not here, for good.
    Gone,
}

/// What happens at the target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TargetEvent {
    /// The guest is put together, with its devices.
    Complete,
    /// The source says something.
    Heard(ToTarget),
    /// The link is cut, or something fails.
    Failed,
    /// The end starts anew, with what it wrote down (whether it runs the guest).
    Restarted,
}

/// What the target does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TargetAction {
    /// Nothing.
    Nothing,
    /// Tell the source.
    Send(ToSource),
    /// Write down that it runs here, let it run, and say so.
    Run,
    /// Take the guest away, then say so.
    Remove,
}

impl Target {
    /// What comes next.
    pub fn on(self, event: TargetEvent) -> (Self, TargetAction) {
        use TargetAction::{Nothing, Remove, Run, Send};
        match (self, event) {
            (Self::Receiving, TargetEvent::Complete) => (Self::Ready, Send(ToSource::Ready)),
            (Self::Receiving, TargetEvent::Heard(ToTarget::Finished)) => (self, Nothing),
            (Self::Ready, TargetEvent::Heard(ToTarget::Commit | ToTarget::Ask)) => {
                (Self::Running, Run)
            }
            (Self::Ready, TargetEvent::Complete | TargetEvent::Heard(ToTarget::Finished)) => {
                (self, Nothing)
            }
            (Self::Receiving | Self::Ready, _) => (Self::Gone, Remove),
            // What it was told it does, however far it came the first time.
            (Self::Running, TargetEvent::Restarted)
            | (Self::Running, TargetEvent::Heard(ToTarget::Commit | ToTarget::Ask)) => (self, Run),
            (Self::Gone, TargetEvent::Heard(ToTarget::Commit | ToTarget::Ask)) => {
                (self, Send(ToSource::Gone))
            }
            (Self::Running | Self::Gone, _) => (self, Nothing),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use proptest::prelude::*;

    /// Two ends, what each wrote down, and what is under way between them.
    struct World {
        source: Source,
        in_doubt: bool,
        target: Target,
        runs: bool,
        source_runs: bool,
        target_runs: bool,
        link: bool,
        to_target: VecDeque<ToTarget>,
        to_source: VecDeque<ToSource>,
    }

    impl World {
        fn new() -> Self {
            Self {
                source: Source::Running,
                in_doubt: false,
                target: Target::Receiving,
                runs: false,
                source_runs: true,
                target_runs: false,
                link: true,
                to_target: VecDeque::new(),
                to_source: VecDeque::new(),
            }
        }

        fn tell_target(&mut self, message: ToTarget) {
            if self.link {
                self.to_target.push_back(message);
            }
        }

        fn tell_source(&mut self, message: ToSource) {
            if self.link {
                self.to_source.push_back(message);
            }
        }

        fn source(&mut self, event: SourceEvent) {
            if event == SourceEvent::Suspended && self.source == Source::Running {
                self.source_runs = false;
            }
            let (next, action) = self.source.on(event);
            self.source = next;
            match action {
                SourceAction::Nothing => {}
                SourceAction::Send(message) => self.tell_target(message),
                SourceAction::Commit => {
                    self.in_doubt = true;
                    self.tell_target(ToTarget::Commit);
                }
                SourceAction::Ask => {
                    // A new connection: nothing of the old one arrives any more.
                    self.to_target.clear();
                    self.to_source.clear();
                    self.tell_target(ToTarget::Ask);
                }
                SourceAction::Resume => self.source_runs = true,
                SourceAction::Remove => self.source_runs = false,
            }
            self.check();
        }

        fn target(&mut self, event: TargetEvent) {
            let (next, action) = self.target.on(event);
            self.target = next;
            match action {
                TargetAction::Nothing => {}
                TargetAction::Send(message) => self.tell_source(message),
                TargetAction::Run => {
                    self.runs = true;
                    self.target_runs = true;
                    self.tell_source(ToSource::Running);
                }
                TargetAction::Remove => {
                    self.target_runs = false;
                    self.tell_source(ToSource::Gone);
                }
            }
            self.check();
        }

        fn check(&self) {
            assert!(!(self.source_runs && self.target_runs), "two");
        }

        fn cut(&mut self) {
            self.link = false;
            self.to_target.clear();
            self.to_source.clear();
        }

        fn step(&mut self, choice: u8) {
            match choice % 12 {
                0 if self.source == Source::Running => self.source(SourceEvent::Suspended),
                1 if self.source != Source::Running && self.target == Target::Receiving => {
                    self.target(TargetEvent::Complete);
                }
                2 | 3 => {
                    if let Some(message) = self.to_target.pop_front() {
                        self.target(TargetEvent::Heard(message));
                    }
                }
                4 | 5 => {
                    if let Some(message) = self.to_source.pop_front() {
                        self.source(SourceEvent::Heard(message));
                    }
                }
                6 => self.cut(),
                7 => self.link = true,
                // Each end notices in its own time.
                8 if !self.link || self.source != Source::Doubt => self.source(SourceEvent::Failed),
                9 if !self.link || self.target == Target::Receiving => {
                    self.target(TargetEvent::Failed)
                }
                10 => {
                    // The source's process dies: all but what it wrote down is forgotten.
                    self.to_target.clear();
                    self.to_source.clear();
                    if !self.in_doubt && self.source == Source::Suspended {
                        self.source = Source::Suspended;
                    }
                    self.source(SourceEvent::Restarted);
                }
                11 => {
                    self.to_target.clear();
                    self.to_source.clear();
                    self.target = match (self.runs, self.target) {
                        (true, _) => Target::Running,
                        (false, state) => state,
                    };
                    self.target(TargetEvent::Restarted);
                }
                _ => {}
            }
        }

        /// Everything works again, and each end does what it has to.
        fn settle(&mut self) {
            self.cut();
            self.source(SourceEvent::Failed);
            self.target(TargetEvent::Failed);
            self.link = true;
            self.source(SourceEvent::Failed);
            for _ in 0..8 {
                if let Some(message) = self.to_target.pop_front() {
                    self.target(TargetEvent::Heard(message));
                }
                if let Some(message) = self.to_source.pop_front() {
                    self.source(SourceEvent::Heard(message));
                }
            }
        }
    }

    #[test]
    fn without_trouble_the_guest_moves() {
        let mut world = World::new();
        for choice in [0, 2, 1, 4, 2, 4] {
            world.step(choice);
        }
        assert!(world.target_runs && !world.source_runs);
        assert_eq!(
            (world.source, world.target),
            (Source::Gone, Target::Running)
        );
    }

    #[test]
    fn every_cut_leaves_one() {
        // The link is cut after each number of steps; who runs it changes once, at the commit.
        let steps = [0, 2, 1, 4, 2, 4];
        let runs_at_target: Vec<bool> = (0..=steps.len())
            .map(|cut| {
                let mut world = World::new();
                steps[..cut].iter().for_each(|&step| world.step(step));
                world.settle();
                assert!(world.source_runs != world.target_runs, "after {cut} steps");
                world.target_runs
            })
            .collect();
        assert_eq!(
            runs_at_target,
            [false, false, false, false, false, true, true]
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn never_two_never_none(choices in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut world = World::new();
            for choice in choices {
                world.step(choice);
            }
            world.settle();
            prop_assert!(world.source_runs != world.target_runs);
            prop_assert!(matches!(world.source, Source::Stayed | Source::Gone));
        }
    }
}
