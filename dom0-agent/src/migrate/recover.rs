//! Takes up what processes left that are no more: guests that were asked to suspend, moves that
//! broke off, moves in doubt, guests that came and were never told to run.
//!
//! `overcast daemon` does it every few seconds, `overcast receive` as it begins, `overcast
//! migrate-recover` on request. What is done can be done twice: it is written down after it
//! was done, and by one process at a time, the one that has the [`claim`] on the guest.

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use xen_abi::domctl::XEN_DOMCTL_SHADOW_OP_OFF;

use super::disks;
use super::handover::{Source as State, SourceAction, SourceEvent};
use super::incoming;
use super::status::{Arrival, Claim, Saving, Status, claim};
use super::suspend::let_go_on;
use super::target;
use crate::build;
use crate::control::{Control, uuid};
use crate::error::Result;
use crate::store::Store;

/// A guest that was asked to suspend and has not in this time will not.
const LATE: Duration = Duration::from_secs(600);

/// How often [`Watch`] looks.
const LOOK: Duration = Duration::from_secs(5);

/// What was done.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Moves that are decided now.
    pub moves: Vec<Status>,
    /// What could not be done, to be tried again.
    pub open: Vec<String>,
}

/// Seconds since 1970.
pub fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

/// Whether a move from here is one that its process left.
fn left(status: &Status) -> bool {
    let open = !status.over() || status.asked.is_some() || status.share.is_some();
    open && !status.process.alive()
}

/// Whether there is something to take up.
fn pending() -> Result<bool> {
    Ok(!Saving::all()?.is_empty()
        || Status::all()?.iter().any(left)
        || Arrival::all()?.iter().any(incoming::left))
}

/// The guest of a record and the right to deal with it; `None` if another process has it, or
/// gave it up only now.
fn claimed(uuid: &str) -> Option<Claim> {
    claim(uuid).ok()
}

/// Whether a domain is still the one that was written down.
fn is_there(control: &Control, domain: u16, known: &str) -> bool {
    control
        .domain_info(domain)
        .is_ok_and(|info| uuid(&info.handle) == known)
}

/// Takes up all. `abandoned`: the targets of moves in doubt are known to be dead.
///
/// # Errors
/// If the records cannot be read. What goes wrong with one of them is told in
/// [`Recovered::open`].
pub fn recover(control: &Control, store: &mut Store, abandoned: bool) -> Result<Recovered> {
    let mut done = Recovered::default();
    for saving in Saving::all()? {
        let Some(_claim) = claimed(&saving.uuid) else {
            continue;
        };
        match saving_left(control, store, &saving) {
            Ok(()) => {}
            Err(error) => done.open.push(format!("domain {}: {error}", saving.domain)),
        }
    }
    for status in Status::all()?.into_iter().filter(left) {
        let Some(_claim) = claimed(&status.uuid) else {
            continue;
        };
        // Somebody else may have taken it up meanwhile.
        let status = match status.again() {
            Ok(Some(status)) if left(&status) => status,
            _ => continue,
        };
        let name = status.name.clone();
        match move_left(control, store, status, abandoned) {
            Ok(Ok(status)) => done.moves.push(status),
            Ok(Err(why)) => done.open.push(format!("{name}: {why}")),
            Err(error) => done.open.push(format!("{name}: {error}")),
        }
    }
    let swept = [
        incoming::sweep(control, store),
        disks::sweep(control, store),
    ];
    let failed = swept.into_iter().filter_map(Result::err);
    done.open.extend(failed.map(|error| error.to_string()));
    Status::forget_old();
    Ok(done)
}

/// A guest that was to be saved, and whose saver is no more, goes on.
fn saving_left(control: &Control, store: &mut Store, saving: &Saving) -> Result<()> {
    let late = now().saturating_sub(saving.asked) > LATE.as_secs();
    if !is_there(control, saving.domain, &saving.uuid)
        || let_go_on(control, store, saving.domain, Duration::ZERO)?
        || late
    {
        saving.forget();
    }
    Ok(())
}

/// A move from here; it, or why it is still open.
fn move_left(
    control: &Control,
    store: &mut Store,
    mut status: Status,
    abandoned: bool,
) -> Result<std::result::Result<Status, String>> {
    let event = match status.state {
        State::Doubt if abandoned => SourceEvent::Abandoned,
        _ => SourceEvent::Restarted,
    };
    let (mut state, mut action) = status.state.on(event);
    if action == SourceAction::Ask {
        let heard = match target::ask(&status) {
            Ok(Some(heard)) => heard,
            Ok(None) => {
                return Ok(Err(format!(
                    "it stays suspended: {} does not know of it, and is not the host that it was handed over to, \
                     or has lost its records",
                    status.host
                )));
            }
            Err(error) => return Ok(Err(format!("it stays suspended: {error}"))),
        };
        (state, action) = state.on(SourceEvent::Heard(heard));
    }
    if is_there(control, status.domain, &status.uuid) {
        match action {
            SourceAction::Remove => build::remove(control, store, status.domain)?,
            _ => {
                undo(control, store, &mut status)?;
                if status.asked.is_some() {
                    // It began to suspend, and must not be forgotten.
                    return Ok(Err("it is about to suspend, and then goes on".into()));
                }
            }
        }
    }
    (status.state, status.asked, status.share) = (state, None, None);
    status.message = "taken up again".into();
    status.write(true)?;
    Ok(Ok(status))
}

/// The guest stays: what was done to it for the move is undone, as far as it can be at this
/// moment.
fn undo(control: &Control, store: &mut Store, status: &mut Status) -> Result<()> {
    let _ = control.shadow_switch(status.domain, XEN_DOMCTL_SHADOW_OP_OFF);
    if let Some(share) = status.share {
        control.set_share(status.domain, share)?;
    }
    if let Some(asked) = status.asked {
        let late = now().saturating_sub(asked) > LATE.as_secs();
        if let_go_on(control, store, status.domain, Duration::ZERO)? || late {
            status.asked = None;
        }
    }
    Ok(())
}

/// Looks again and again, in a thread: a target that is asked may let one wait.
#[derive(Debug, Default)]
pub struct Watch {
    looked: Option<Instant>,
    thread: Option<JoinHandle<Result<Recovered>>>,
    /// What was told last.
    told: Vec<String>,
}

impl Watch {
    /// To be called often.
    pub fn turn(&mut self) {
        if let Some(thread) = self.thread.take_if(|thread| thread.is_finished()) {
            let open = match thread.join() {
                Ok(Ok(done)) => {
                    for status in done.moves {
                        say!(
                            "overcast: the move of {} is decided: {:?}",
                            status.name,
                            status.state
                        );
                    }
                    done.open
                }
                Ok(Err(error)) => vec![error.to_string()],
                Err(_) => vec!["taking up what was left ended by a panic".into()],
            };
            // Once, and not each time.
            if open != self.told {
                open.iter().for_each(|why| complain!("overcast: {why}"));
                self.told = open;
            }
        }
        if self.thread.is_none() && self.looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
            self.looked = Some(Instant::now());
            if pending().unwrap_or(false) {
                self.thread = Some(thread::spawn(|| {
                    recover(&Control::open()?, &mut Store::open()?, false)
                }));
            }
        }
    }
}
