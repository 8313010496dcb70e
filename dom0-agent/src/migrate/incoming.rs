//! The target's end of moves: `overcast receive`.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use xen_abi::arch_x86::{CpuidLeaf, MsrEntry};

use super::config::{self, Saved};
use super::disks;
use super::disks::device::Attached;
use super::disks::target::{self, Expected};
use super::file::{Incoming, check};
use super::handover::{Target as State, TargetAction, TargetEvent, ToTarget};
use super::lanes::{self, Inlet};
use super::status::Arrival;
use super::tls::{Channel, Keys};
use super::wire::{self, FromSource, FromTarget, Hello, Offer, StreamReader};
use crate::control::Control;
use crate::cpu;
use crate::error::{Error, Result};
use crate::store::Store;
use crate::stream;
use crate::xen::domctl::CpuPolicy;

/// How long the other end may be silent.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a guest that is ready waits for the source's word.
const READY: Duration = Duration::from_secs(120);
/// How often it is looked whether the word came on another connection.
const LOOK: Duration = Duration::from_secs(2);
/// How long the source's connections for the stream may take to come.
const JOIN: Duration = Duration::from_secs(30);
/// How long a source that cut the stream may take to say why.
const WHY: Duration = Duration::from_secs(2);
/// Connections at a time, those of streams not counted.
const CONNECTIONS: usize = 16;

/// Moves of this process.
#[derive(Default)]
struct Known {
    /// By number.
    arrivals: HashMap<String, Arrival>,
    /// Those that wait for the connections of their streams, by number: which one it is.
    waiting: HashMap<String, Sender<(u32, Channel)>>,
}

type Moves = Arc<Mutex<Known>>;

/// Waits for sources.
pub struct Receiver {
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    moves: Moves,
    disks: Expected,
}

impl Receiver {
    /// Listens; plain TCP if `plain`.
    pub fn new(listen: &str, plain: bool) -> Result<Self> {
        let (control, mut store) = (Control::open()?, Store::open()?);
        sweep(&control, &mut store)?;
        disks::sweep(&control, &mut store)?;
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
            disks: Expected::default(),
        })
    }

    /// Takes domains for ever, or one if `once`.
    pub fn run(self, once: bool) -> Result<()> {
        let (tell, came) = mpsc::channel();
        thread::spawn(move || {
            let error = self.accept(&tell);
            let _ = tell.send(Err(error));
        });
        for arrival in came {
            let (arrival, from) = arrival?;
            println!(
                "{} came from {from} and is domain {}",
                arrival.name, arrival.domain
            );
            if once {
                break;
            }
        }
        Ok(())
    }

    /// Takes connections, until that fails, and tells of the domains that came.
    fn accept(&self, tell: &Sender<Result<(Arrival, SocketAddr)>>) -> Error {
        let active = Arc::new(());
        loop {
            let (stream, from) = match self.listener.accept() {
                Ok(accepted) => accepted,
                Err(error) => return error.into(),
            };
            if Arc::strong_count(&active) > CONNECTIONS {
                continue;
            }
            let (tls, moves) = (self.tls.clone(), Arc::clone(&self.moves));
            let disks = self.disks.clone();
            let (tell, active) = (tell.clone(), Arc::clone(&active));
            thread::spawn(move || {
                let _active = active;
                match serve(stream, tls.as_ref(), &moves, &disks) {
                    // Nobody listens: the one that was wanted came.
                    Ok(Some(arrival)) => drop(tell.send(Ok((arrival, from)))),
                    Ok(None) => {}
                    Err(error) => eprintln!("overcast: from {from}: {error}"),
                }
            });
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

fn lock(moves: &Moves) -> MutexGuard<'_, Known> {
    // Entries are replaced as a whole.
    moves.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection; the domain that came, if one did.
fn serve(
    stream: TcpStream,
    tls: Option<&Arc<ServerConfig>>,
    moves: &Moves,
    disks: &Expected,
) -> Result<Option<Arrival>> {
    let mut channel = Channel::accept(stream, tls)?;
    channel.set_patience(Some(SILENCE))?;
    let hello: Hello = wire::receive(&mut channel)?;
    wire::send(&mut channel, &Hello::ours())?;
    hello.version()?;
    match wire::receive(&mut channel)? {
        FromSource::Offer(offer) => take(channel, &offer, moves, disks),
        FromSource::Disks { id } => disks.serve(&id, channel).map(|()| None),
        FromSource::Ask { id } => {
            let answer = answer(&id, moves)?;
            wire::send(&mut channel, &answer)?;
            Ok(None)
        }
        FromSource::Join { id, lane } => {
            join(channel, &id, lane, moves)?;
            Ok(None)
        }
        _ => Err(Error::Peer(
            "it neither offers a domain nor asks for one".into(),
        )),
    }
}

/// A connection for the stream of a move that waits for it.
fn join(mut channel: Channel, id: &str, lane: u32, moves: &Moves) -> Result<()> {
    let waiting = lock(moves).waiting.get(id).cloned();
    let Some(waiting) = waiting else {
        let why = "no move of this number waits for connections".to_owned();
        let _ = wire::send(&mut channel, &FromTarget::Gone { why: why.clone() });
        return Err(Error::Peer(why));
    };
    wire::send(&mut channel, &FromTarget::Joined)?;
    // It may just have given up.
    let _ = waiting.send((lane, channel));
    Ok(())
}

/// Waits for the connections of a stream, from the first to the last.
fn joined(came: &mpsc::Receiver<(u32, Channel)>, count: u32) -> Result<Vec<Channel>> {
    let end = Instant::now() + JOIN;
    let mut lanes: Vec<Option<Channel>> = (0..count).map(|_| None).collect();
    while lanes.iter().any(Option::is_none) {
        match came.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok((lane, channel)) => match lanes.get_mut(lane as usize) {
                Some(slot @ None) => *slot = Some(channel),
                _ => {
                    return Err(Error::Peer(format!(
                        "connection {lane} of the stream is none"
                    )));
                }
            },
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                return Err(Error::Peer(
                    "the connections of the stream do not come".into(),
                ));
            }
        }
    }
    Ok(lanes.into_iter().flatten().collect())
}

/// What became of a move; a guest that waits for the word to run has it now.
fn answer(id: &str, moves: &Moves) -> Result<FromTarget> {
    let mut moves = lock(moves);
    if let Some(arrival) = moves.arrivals.get_mut(id) {
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
                super::handover::ToSource::Ready => FromTarget::Ready {
                    finish_ms: 0,
                    devices_ms: 0,
                },
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
) -> std::result::Result<(Saved, Incoming, Vec<Attached>), Vec<String>> {
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
    let disks =
        target::prepare(store, new.domain(), &saved.config, &offer.disks).unwrap_or_else(|why| {
            reasons.extend(why);
            Vec::new()
        });
    match reasons.is_empty() {
        true => Ok((saved, new, disks)),
        false => {
            new.remove(control, store);
            Err(reasons)
        }
    }
}

/// Takes a domain.
fn take(
    mut channel: Channel,
    offer: &Offer,
    moves: &Moves,
    expected: &Expected,
) -> Result<Option<Arrival>> {
    let control = Control::open()?;
    let mut store = Store::open()?;
    // A number that is known, here or on disk, is no new move.
    let known = lock(moves).arrivals.contains_key(&offer.id) || Arrival::find(&offer.id)?.is_some();
    let prepared = match known {
        true => Err(vec!["a move of this number was here already".to_owned()]),
        false => prepare(&control, &mut store, offer),
    };
    let (mut saved, mut new, disks) = match prepared {
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
    let streams = offer.streams.clamp(1, lanes::MOST);
    if offer.dry_run {
        new.remove(&control, &mut store);
        wire::send(&mut channel, &FromTarget::Accept { streams })?;
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
    let (waiting, came) = mpsc::channel();
    {
        let mut moves = lock(moves);
        moves.arrivals.insert(offer.id.clone(), arrival);
        moves.waiting.insert(offer.id.clone(), waiting);
    }
    let disks = (!disks.is_empty()).then(|| expected.expect(&offer.id, disks));
    // Dom0 lets them go at the end: the guest does not wait for that.
    let mut filled = None;
    let mut times = (Duration::ZERO, Duration::ZERO);
    let received = wire::send(&mut channel, &FromTarget::Accept { streams })
        .and_then(|()| joined(&came, streams));
    lock(moves).waiting.remove(&offer.id);
    let received = received.and_then(|lanes| {
        let mut caught = || {
            wire::send(&mut channel, &FromTarget::Caught).map_err(|error| match error {
                Error::Io(error) => error,
                other => std::io::Error::other(other.to_string()),
            })
        };
        // While the guest still runs at the source: it takes long, and may fail.
        new.prepare(&mut store, &saved)?;
        cpu::remember(&mut store, &saved.uuid, &cpu::set_of(&saved.seen))?;
        let mut stream = StreamReader::of(Inlet::new(lanes, &mut caught));
        (_, times.0) = new.receive(&control, &mut stream, &mut |_, _, _| {})?;
        stream.finish()?;
        filled = disks.as_ref().map(|disks| disks.wait()).transpose()?;
        let begin = Instant::now();
        new.introduce(&mut store)?;
        times.1 = begin.elapsed();
        new.remember(&control, &mut saved);
        Ok(())
    });
    let received = received.map_err(|error| why(error, &mut channel));
    let event = match &received {
        Ok(()) => TargetEvent::Complete,
        Err(_) => TargetEvent::Failed,
    };
    let mut answer = on(moves, &offer.id, event)?;
    if let (Err(error), Some(FromTarget::Gone { why })) = (&received, &mut answer) {
        *why = error.to_string();
    }
    if let Some(FromTarget::Ready {
        finish_ms,
        devices_ms,
    }) = &mut answer
    {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        (*finish_ms, *devices_ms) = (milliseconds(times.0), milliseconds(times.1));
    }
    if let Some(answer) = &answer {
        // A source that does not hear it asks.
        let _ = wire::send(&mut channel, answer);
    }
    received?;
    wait_for_word(&mut channel, &offer.id, moves)
}

/// Why a stream broke off, if the source says it.
fn why(error: Error, channel: &mut Channel) -> Error {
    let broken = matches!(
        &error,
        Error::Io(_) | Error::Stream(stream::Error::Truncated(_))
    );
    if !broken || channel.set_patience(Some(WHY)).is_err() {
        return error;
    }
    let heard = wire::receive(channel);
    let _ = channel.set_patience(Some(SILENCE));
    match heard {
        Ok(FromSource::Abort { why }) => Error::Peer(format!("the source gave up: {why}")),
        _ => error,
    }
}

/// Something happened to a move of this process.
fn on(moves: &Moves, id: &str, event: TargetEvent) -> Result<Option<FromTarget>> {
    match lock(moves).arrivals.get_mut(id) {
        Some(arrival) => step(arrival, event),
        None => Ok(None),
    }
}

/// The guest is there, paused: until the source says that it may run, or is silent too long.
fn wait_for_word(channel: &mut Channel, id: &str, moves: &Moves) -> Result<Option<Arrival>> {
    let end = Instant::now() + READY;
    channel.set_patience(Some(LOOK))?;
    let event = loop {
        let decided = lock(moves).arrivals.get(id).cloned();
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
    let arrival = lock(moves).arrivals.get(id).cloned();
    Ok(arrival.filter(|arrival| arrival.state == State::Running))
}
