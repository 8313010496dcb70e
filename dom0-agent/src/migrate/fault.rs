//! Faults on purpose, for tests of the handover: the environment variable `OVERCAST_FAULT` names
//! a [`Point`] at which a process ends as if killed, or (`POINT:stall`) stands still for ever.
//! Nothing else reads it, and without it nothing happens.
//!
//! | point | when |
//! |---|---|
//! | `source-offer` | the target accepted, no page was sent |
//! | `source-round` | a round was sent, the guest runs |
//! | `source-suspended` | the guest is suspended, the rest not sent |
//! | `source-ready` | the target is ready, doubt is not written down |
//! | `source-doubt` | doubt is written down, `Commit` not sent |
//! | `source-commit` | `Commit` was sent, the answer not heard |
//! | `source-running` | the target runs the guest, ours is not taken away |
//! | `target-offer` | the offer was accepted, nothing came |
//! | `target-page` | the first pages came |
//! | `target-complete` | all came, the source was not told |
//! | `target-ready` | the source was told |
//! | `target-commit` | `Commit` came, nothing is written down |
//! | `target-written` | it is written down that the guest runs here, and it does not yet |
//! | `target-running` | the guest runs, the source was not told |
//! | `save-suspended` | a guest is suspended to be saved into a file |

use std::time::Duration;

macro_rules! points {
    ($($name:ident $text:literal),* $(,)?) => {
        /// Where faults can be.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Point { $(#[doc = $text] $name),* }

        impl Point {
            /// Its name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

points! {
    SourceOffer "source-offer",
    SourceRound "source-round",
    SourceSuspended "source-suspended",
    SourceReady "source-ready",
    SourceDoubt "source-doubt",
    SourceCommit "source-commit",
    SourceRunning "source-running",
    TargetOffer "target-offer",
    TargetPage "target-page",
    TargetComplete "target-complete",
    TargetReady "target-ready",
    TargetCommit "target-commit",
    TargetWritten "target-written",
    TargetRunning "target-running",
    SaveSuspended "save-suspended",
}

/// A point is reached.
pub fn at(point: Point) {
    let Ok(wanted) = std::env::var("OVERCAST_FAULT") else {
        return;
    };
    if wanted == point.name() {
        complain!("overcast: ends at {wanted}, as OVERCAST_FAULT asks");
        // SAFETY: nothing of this process is used after it.
        unsafe { libc::_exit(137) };
    }
    if wanted.strip_suffix(":stall") == Some(point.name()) {
        complain!("overcast: stands still at {wanted}, as OVERCAST_FAULT asks");
        loop {
            std::thread::sleep(Duration::from_secs(60));
        }
    }
}
