//! A guest is asked to suspend itself, and told that it may go on.
//!
//! It is asked through the store (`control/shutdown`), as its power is switched off; its
//! kernel takes its devices to rest and calls `SCHEDOP_shutdown(SHUTDOWN_suspend)`. From
//! then on nothing of it changes. That call returns 0 in a guest that was restored, and 1
//! in one that goes on where it was ([`resume`]).

use std::thread::sleep;
use std::time::{Duration, Instant};

use xen_abi::domctl::{XEN_DOMINF_SHUTDOWN, XEN_DOMINF_SHUTDOWNMASK, XEN_DOMINF_SHUTDOWNSHIFT};
use xen_abi::sched::SHUTDOWN_SUSPEND;

use crate::control::Control;
use crate::error::{Error, Result};
use crate::store::Store;

/// How often the guest is looked at.
const POLL: Duration = Duration::from_millis(2);

/// Why a domain shut down (`SHUTDOWN_*`), if it did.
fn shutdown(control: &Control, domain: u16) -> Result<Option<u32>> {
    let flags = control.domain_info(domain)?.flags;
    let reason = (flags >> XEN_DOMINF_SHUTDOWNSHIFT) & XEN_DOMINF_SHUTDOWNMASK;
    Ok((flags & XEN_DOMINF_SHUTDOWN != 0).then_some(reason))
}

/// Suspends a guest; how long that took.
///
/// # Errors
/// `Timeout` if its kernel does not listen, or takes too long: it is told then to forget it.
/// `Usage` if it ended in another way meanwhile.
pub fn suspend(
    control: &Control,
    store: &mut Store,
    domain: u16,
    patience: Duration,
) -> Result<Duration> {
    let begin = Instant::now();
    let node = format!("/local/domain/{domain}/control/shutdown");
    if let Some(reason) = shutdown(control, domain)? {
        return Err(Error::Usage(format!(
            "the domain has ended already (reason {reason}) and cannot be saved"
        )));
    }
    store.write(&node, b"suspend")?;
    loop {
        match shutdown(control, domain)? {
            Some(SHUTDOWN_SUSPEND) => return Ok(begin.elapsed()),
            Some(reason) => {
                return Err(Error::Usage(format!(
                    "the domain ended (reason {reason}) when asked to suspend"
                )));
            }
            None if begin.elapsed() < patience => sleep(POLL),
            None => break,
        }
    }
    // Whoever finds it still there may take it back; the guest may be at it this very moment.
    let taken = store.transaction(|store| {
        let taken = store.read_text(&node)?.is_none_or(|value| value.is_empty());
        if !taken {
            store.write(&node, b"")?;
        }
        Ok(taken)
    })?;
    if taken {
        // It is at it: it will not come back by itself.
        let end = Instant::now() + patience;
        while Instant::now() < end {
            if shutdown(control, domain)? == Some(SHUTDOWN_SUSPEND) {
                return Ok(begin.elapsed());
            }
            sleep(POLL);
        }
    }
    let why = match taken {
        true => "its kernel began to, and is not done",
        false => "its kernel does not listen (it is not up, is paused, or hangs)",
    };
    Err(Error::Timeout(format!(
        "the domain did not suspend in {} s: {why}",
        patience.as_secs()
    )))
}

/// Lets a suspended guest go on where it was: its call returns 1, and its devices stay. One
/// that is not suspended is left alone.
pub fn resume(control: &Control, store: &mut Store, domain: u16) -> Result<()> {
    if shutdown(control, domain)? != Some(SHUTDOWN_SUSPEND) {
        return Ok(());
    }
    let mut context = control.vcpu_context(domain, 0)?;
    context.user_regs.rax = 1;
    control.set_vcpu_context(domain, 0, &context)?;
    control.resume(domain)?;
    store.resumed(domain)
}
