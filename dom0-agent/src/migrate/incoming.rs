//! The target's end of moves: `overcast receive`.

use std::collections::HashMap;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use xen_abi::arch_x86::{CpuidLeaf, MsrEntry};

use super::config::{self, Saved};
use super::file::{Incoming, check};
use super::handover::{Target as State, TargetAction, TargetEvent, ToTarget};
use super::status::Arrival;
use super::tls::{Channel, Keys};
use super::wire::{self, FromSource, FromTarget, Hello, Offer, StreamReader};
use crate::control::Control;
use crate::cpu;
use crate::error::{Error, Result};
use crate::store::Store;
use crate::xen::domctl::CpuPolicy;

/// How long the other end may be silent.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a guest that is ready waits for the source's word.
const READY: Duration = Duration::from_secs(120);
/// How often it is looked whether the word came on another connection.
const LOOK: Duration = Duration::from_secs(2);
/// Connections at a time.
const CONNECTIONS: usize = 16;

/// Moves of this process, by number.
type Moves = Arc<Mutex<HashMap<String, Arrival>>>;

/// Waits for sources.
pub struct Receiver {
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    moves: Moves,
}

impl Receiver {
    /// Listens; plain TCP if `plain`.
    pub fn new(listen: &str, plain: bool) -> Result<Self> {
        sweep(&Control::open()?, &mut Store::open()?)?;
        let tls = match plain {
            true => None,
            false => Some(Keys::new(super::tls::DIRECTORY.as_ref()).server()?),
        };
        let listener = TcpListener::bind(listen)
            .map_err(|error| Error::Usage(format!("{listen}: {error}")))?;
        Ok(Self {
            listener,
            tls,
            moves: Moves::default(),
        })
    }

    /// Takes domains for ever, or one if `once`.
    pub fn run(&self, once: bool) -> Result<()> {
        let active = Arc::new(());
        loop {
            let (stream, from) = self.listener.accept()?;
            if Arc::strong_count(&active) > CONNECTIONS {
                continue;
            }
            let (tls, moves, active) = (
                self.tls.clone(),
                Arc::clone(&self.moves),
                Arc::clone(&active),
            );
            let serve = move || {
                let _active = active;
                match serve(stream, tls.as_ref(), &moves) {
                    Ok(Some(arrival)) => {
                        println!(
                            "{} came from {} and is domain {}",
                            arrival.name, from, arrival.domain
                        );
                        true
                    }
                    Ok(None) => false,
                    Err(error) => {
                        eprintln!("overcast: from {from}: {error}");
                        false
                    }
                }
            };
            if once {
                if serve() {
                    return Ok(());
                }
            } else {
                thread::spawn(serve);
            }
        }
    }
}

/// Takes away what a process left that is no more: guests that were never told to run. Those
/// that were, run.
fn sweep(control: &Control, store: &mut Store) -> Result<()> {
    for mut arrival in Arrival::all()? {
        let alive = std::path::Path::new(&format!("/proc/{}", arrival.process)).exists();
        if alive || matches!(arrival.state, State::Running | State::Gone) {
            continue;
        }
        // Its number may be another domain's by now.
        if store.domain_name(arrival.domain)?.as_deref() == Some(arrival.name.as_str()) {
            step(&mut arrival, TargetEvent::Failed)?;
        } else if control.domain_info(arrival.domain).is_err() {
            arrival.state = State::Gone;
            arrival.write()?;
        }
    }
    Ok(())
}

fn lock(moves: &Moves) -> MutexGuard<'_, HashMap<String, Arrival>> {
    // Entries are replaced as a whole.
    moves.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection; the domain that came, if one did.
fn serve(
    stream: TcpStream,
    tls: Option<&Arc<ServerConfig>>,
    moves: &Moves,
) -> Result<Option<Arrival>> {
    let mut channel = Channel::accept(stream, tls)?;
    channel.set_patience(Some(SILENCE))?;
    let hello: Hello = wire::receive(&mut channel)?;
    wire::send(&mut channel, &Hello::ours())?;
    hello.version()?;
    match wire::receive(&mut channel)? {
        FromSource::Offer(offer) => take(channel, &offer, moves),
        FromSource::Ask { id } => {
            let answer = answer(&id, moves)?;
            wire::send(&mut channel, &answer)?;
            Ok(None)
        }
        _ => Err(Error::Peer(
            "it neither offers a domain nor asks for one".into(),
        )),
    }
}

/// What became of a move; a guest that waits for the word to run has it now.
fn answer(id: &str, moves: &Moves) -> Result<FromTarget> {
    let mut moves = lock(moves);
    if let Some(arrival) = moves.get_mut(id) {
        return step(arrival, TargetEvent::Heard(ToTarget::Ask)).map(|answer| {
            answer.unwrap_or(FromTarget::Gone {
                why: "it was not complete".into(),
            })
        });
    }
    drop(moves);
    match Arrival::find(id)? {
        Some(mut arrival) if arrival.state == State::Running => {
            // This process may be a new one, and the old one have come no further.
            step(&mut arrival, TargetEvent::Restarted)?;
            Ok(FromTarget::Running {
                domain: arrival.domain,
            })
        }
        _ => Ok(FromTarget::Gone {
            why: "there is no such domain".into(),
        }),
    }
}

/// Does what follows from an event; what to say.
fn step(arrival: &mut Arrival, event: TargetEvent) -> Result<Option<FromTarget>> {
    let (state, action) = arrival.state.on(event);
    match action {
        TargetAction::Nothing => {}
        TargetAction::Send(message) => {
            arrival.state = state;
            return Ok(Some(match message {
                super::handover::ToSource::Ready => FromTarget::Ready,
                super::handover::ToSource::Running => FromTarget::Running {
                    domain: arrival.domain,
                },
                super::handover::ToSource::Gone => FromTarget::Gone {
                    why: "it was given up".into(),
                },
            }));
        }
        TargetAction::Run => {
            let mut new = arrival.clone();
            new.state = state;
            // The commit point: once this is on disk, it runs here.
            new.write()?;
            *arrival = new;
            let control = Control::open()?;
            let paused = control
                .domains()?
                .iter()
                .any(|info| info.id == arrival.domain && info.paused);
            if paused {
                control.unpause(arrival.domain)?;
            }
            return Ok(Some(FromTarget::Running {
                domain: arrival.domain,
            }));
        }
        TargetAction::Remove => {
            arrival.state = state;
            let control = Control::open()?;
            let mut store = Store::open()?;
            crate::build::remove(&control, &mut store, arrival.domain)?;
            // What is not written down as running is not.
            let _ = arrival.write();
            return Ok(Some(FromTarget::Gone {
                why: "it was given up".into(),
            }));
        }
    }
    arrival.state = state;
    Ok(None)
}

/// Looks whether a domain can be had here, and makes it, without memory, if so.
fn prepare(
    control: &Control,
    store: &mut Store,
    offer: &Offer,
) -> std::result::Result<(Saved, Incoming), Vec<String>> {
    let mut reasons = Vec::new();
    let saved = match config::from_json(&offer.config) {
        Ok(saved) => saved,
        Err(error) => return Err(vec![error.to_string()]),
    };
    if let Err(error) = check(control, store, &saved) {
        reasons.push(error.to_string());
    }
    let policy = CpuPolicy {
        leaves: offer
            .leaves
            .iter()
            .map(|&[leaf, subleaf, a, b, c, d]| CpuidLeaf {
                leaf,
                subleaf,
                a,
                b,
                c,
                d,
            })
            .collect(),
        msrs: offer
            .msrs
            .iter()
            .map(|&(idx, val)| MsrEntry { idx, flags: 0, val })
            .collect(),
    };
    match cpu::obstacles(control, &policy, &cpu::set_of(&saved.seen)) {
        Ok(found) if offer.force_cpu => found
            .iter()
            .for_each(|obstacle| eprintln!("overcast: {}: {obstacle}", saved.config.name)),
        Ok(found) => reasons.extend(found.iter().map(ToString::to_string)),
        Err(error) => reasons.push(format!("the CPU that the guest sees: {error}")),
    }
    if !reasons.is_empty() {
        return Err(reasons);
    }
    let new = match Incoming::make(control, store, &saved) {
        Ok(new) => new.forced(offer.force_cpu),
        Err(error) => {
            reasons.push(error.to_string());
            return Err(reasons);
        }
    };
    if let Err(error) = control.set_cpu_policy(new.domain(), &policy) {
        reasons.push(format!("the CPU that the guest sees: {error}"));
    }
    match reasons.is_empty() {
        true => Ok((saved, new)),
        false => {
            new.remove(control, store);
            Err(reasons)
        }
    }
}

/// Takes a domain.
fn take(mut channel: Channel, offer: &Offer, moves: &Moves) -> Result<Option<Arrival>> {
    let control = Control::open()?;
    let mut store = Store::open()?;
    // A number that is known, here or on disk, is no new move.
    let known = lock(moves).contains_key(&offer.id) || Arrival::find(&offer.id)?.is_some();
    let prepared = match known {
        true => Err(vec!["a move of this number was here already".to_owned()]),
        false => prepare(&control, &mut store, offer),
    };
    let (mut saved, mut new) = match prepared {
        Ok(prepared) => prepared,
        Err(reasons) => {
            wire::send(
                &mut channel,
                &FromTarget::Refuse {
                    reasons: reasons.clone(),
                },
            )?;
            return Err(Error::Refused(reasons.join("; ")));
        }
    };
    if offer.dry_run {
        new.remove(&control, &mut store);
        wire::send(&mut channel, &FromTarget::Accept)?;
        return Ok(None);
    }
    let arrival = Arrival {
        id: offer.id.clone(),
        name: saved.config.name.clone(),
        domain: new.domain(),
        state: State::Receiving,
        from: channel.peer(),
        process: std::process::id(),
    };
    if let Err(error) = arrival.write() {
        new.remove(&control, &mut store);
        return Err(error);
    }
    lock(moves).insert(offer.id.clone(), arrival);
    let received: Result<()> = (|| {
        wire::send(&mut channel, &FromTarget::Accept)?;
        let mut stream = StreamReader::new(&mut channel);
        new.receive(&control, &mut stream, &mut |_, _, _| {})?;
        stream.finish()?;
        new.attach(&mut store, &saved)?;
        new.remember(&control, &mut store, &mut saved);
        Ok(())
    })();
    let event = match &received {
        Ok(()) => TargetEvent::Complete,
        Err(_) => TargetEvent::Failed,
    };
    let mut answer = on(moves, &offer.id, event)?;
    if let (Err(error), Some(FromTarget::Gone { why })) = (&received, &mut answer) {
        *why = error.to_string();
    }
    if let Some(answer) = &answer {
        // A source that does not hear it asks.
        let _ = wire::send(&mut channel, answer);
    }
    received?;
    wait_for_word(&mut channel, &offer.id, moves)
}

/// Something happened to a move of this process.
fn on(moves: &Moves, id: &str, event: TargetEvent) -> Result<Option<FromTarget>> {
    match lock(moves).get_mut(id) {
        Some(arrival) => step(arrival, event),
        None => Ok(None),
    }
}

/// The guest is there, paused: until the source says that it may run, or is silent too long.
fn wait_for_word(channel: &mut Channel, id: &str, moves: &Moves) -> Result<Option<Arrival>> {
    let end = Instant::now() + READY;
    channel.set_patience(Some(LOOK))?;
    let event = loop {
        let decided = lock(moves).get(id).cloned();
        if let Some(arrival) = decided.filter(|arrival| arrival.state != State::Ready) {
            // The source asked on another connection.
            return Ok((arrival.state == State::Running).then_some(arrival));
        }
        match wire::receive(channel) {
            Ok(FromSource::Commit) => break TargetEvent::Heard(ToTarget::Commit),
            Err(Error::Io(error))
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) && Instant::now() < end => {}
            _ => break TargetEvent::Failed,
        }
    };
    let answer = on(moves, id, event)?;
    if let Some(answer) = &answer {
        let _ = wire::send(channel, answer);
    }
    let arrival = lock(moves).get(id).cloned();
    Ok(arrival.filter(|arrival| arrival.state == State::Running))
}
