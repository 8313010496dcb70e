//! The target's end of moves: `overcast receive`.
//!
//! What is known of a domain that came is in this process, on disk ([`Arrival`]), and in the store
//! ([`MARK`]), which outlives Dom0: who finds it in any of them to run here, says so.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use xen_abi::arch_x86::{CpuidLeaf, MsrEntry};

use super::config::{self, Saved};
use super::disks::device::Attached;
use super::disks::target::{self, Expected};
use super::fault::{self, Point};
use super::file::{Incoming, check};
use super::handover::{Target as State, TargetAction, TargetEvent, ToSource, ToTarget};
use super::lanes::{self, inlet};
use super::status::{self, Arrival, Process};
use super::tls::{Channel, Keys};
use super::wire::{self, FromSource, FromTarget, Hello, Offer, StreamReader};
use crate::control::{Control, DomainInfo};
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
/// How long somebody may take to say who it is and what it wants, all in all.
const GREETING: Duration = Duration::from_secs(30);
/// After a connection that could not be taken.
const PAUSE: Duration = Duration::from_millis(200);
/// In a domain's directory `/libxl/N`: the number of the move by which it came, and whether it was
/// told to run ([`RECEIVING`], [`RUNNING`]).
const MARK: &str = "overcast-move";
const RECEIVING: &str = "receiving";
const RUNNING: &str = "running";
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
        let tls = match plain {
            true => None,
            false => Some(Keys::new(super::tls::DIRECTORY.as_ref()).server()?),
        };
        let listener = TcpListener::bind(listen)
            .map_err(|error| Error::Usage(format!("{listen}: {error}")))?;
        say!("waits for domains at {listen}");
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
        thread::spawn(move || self.accept(&tell));
        for (arrival, from) in came {
            say!(
                "{} came from {from} and is domain {}",
                arrival.name,
                arrival.domain
            );
            if once {
                break;
            }
        }
        Ok(())
    }

    /// Takes connections for ever, and tells of the domains that came.
    fn accept(&self, tell: &Sender<(Arrival, SocketAddr)>) {
        let active = Arc::new(());
        loop {
            let (stream, from) = match self.listener.accept() {
                Ok(accepted) => accepted,
                // It was gone again, or too many files are open for the moment.
                Err(error) => {
                    complain!("overcast: a connection that could not be taken: {error}");
                    thread::sleep(PAUSE);
                    continue;
                }
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
                    Ok(Some(arrival)) => drop(tell.send((arrival, from))),
                    Ok(None) => {}
                    Err(error) => complain!("overcast: from {from}: {error}"),
                }
            });
        }
    }
}

fn mark_path(domain: u16) -> String {
    format!("/libxl/{domain}/{MARK}")
}

/// Marks a domain.
fn mark(store: &mut Store, arrival: &Arrival, state: &str) -> Result<()> {
    let value = format!("{} {state}", arrival.id);
    store.write(&mark_path(arrival.domain), value.as_bytes())
}

/// All domains that came and their marks: number of the move, and state.
fn marked(control: &Control, store: &mut Store) -> Result<Vec<(DomainInfo, String, String)>> {
    let mut found = Vec::new();
    for info in control.domains()? {
        if let Some(mark) = store.read_text(&mark_path(info.id))?
            && let Some((id, state)) = mark.split_once(' ')
        {
            found.push((info, id.to_owned(), state.to_owned()));
        }
    }
    Ok(found)
}

/// Whether it is one that its process left undecided.
pub fn left(arrival: &Arrival) -> bool {
    !matches!(arrival.state, State::Running | State::Gone) && !arrival.process.alive()
}

/// Takes away what processes left that are no more: guests that were never told to run. Those
/// that were, run.
///
/// # Errors
/// The first; the others are taken away all the same.
pub fn sweep(control: &Control, store: &mut Store) -> Result<()> {
    let mut result = Ok(());
    for mut arrival in Arrival::all()?.into_iter().filter(left) {
        result = result.and(give_up(control, store, &mut arrival));
    }
    // Records may be lost, with Dom0's memory.
    for (info, id, state) in marked(control, store)? {
        if state == RECEIVING && Arrival::find(&id)?.is_none() {
            result = result.and(forget(control, store, &info, &id));
        }
    }
    result
}

/// A domain that is marked as received, and of which there is no record any more.
fn forget(control: &Control, store: &mut Store, info: &DomainInfo, id: &str) -> Result<()> {
    let mut arrival = Arrival {
        id: id.to_owned(),
        name: store.domain_name(info.id)?.unwrap_or_default(),
        domain: info.id,
        uuid: info.uuid.clone(),
        state: State::Receiving,
        from: String::new(),
        process: Process::this(),
    };
    give_up(control, store, &mut arrival)
}

/// A domain that was never told to run is taken away, if it is still the one that was meant, and
/// that is written down.
///
/// # Errors
/// `Usage` if somebody else lets it run: nobody may be told then that it is gone.
fn give_up(control: &Control, store: &mut Store, arrival: &mut Arrival) -> Result<()> {
    let there = control
        .domains()?
        .into_iter()
        .find(|info| info.id == arrival.domain && info.uuid == arrival.uuid);
    if let Some(info) = there {
        let mark = store.read_text(&mark_path(arrival.domain))?;
        if mark == Some(format!("{} {RUNNING}", arrival.id)) {
            // It was told, but that could not be written down.
            return Ok(());
        }
        if !info.paused {
            return Err(Error::Usage(format!(
                "domain {} came by a move that was not completed, and somebody lets it run",
                info.id
            )));
        }
        crate::build::remove(control, store, arrival.domain)?;
    }
    arrival.state = State::Gone;
    arrival.write()
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
    channel.set_deadline(GREETING);
    let hello: Hello = wire::receive(&mut channel)?;
    let ours = Hello {
        host: status::host().unwrap_or_default(),
        ..Hello::ours()
    };
    wire::send(&mut channel, &ours)?;
    hello.version()?;
    let wanted = wire::receive(&mut channel)?;
    channel.set_patience(Some(SILENCE))?;
    match wanted {
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
    let (control, mut store) = (Control::open()?, Store::open()?);
    let marked = marked(&control, &mut store)?
        .into_iter()
        .find(|(_, marked, _)| marked == id);
    let told = marked.as_ref().filter(|(.., state)| state == RUNNING);
    match (Arrival::find(id)?, told) {
        (Some(mut arrival), _) if arrival.state == State::Running => {
            // This process may be a new one, and the old one have come no further.
            step(&mut arrival, TargetEvent::Restarted)?;
            Ok(FromTarget::Running {
                domain: arrival.domain,
            })
        }
        (_, Some((info, ..))) => {
            let_run(&control, info.id, &info.uuid)?;
            Ok(FromTarget::Running { domain: info.id })
        }
        (Some(arrival), None) if arrival.state != State::Gone && arrival.process.alive() => Err(
            Error::Peer("another process here takes that domain, and is to be asked".into()),
        ),
        (Some(mut arrival), None) => {
            if arrival.state != State::Gone {
                give_up(&control, &mut store, &mut arrival)?;
            }
            Ok(FromTarget::Gone {
                why: "it was given up".into(),
            })
        }
        (None, None) => {
            if let Some((info, ..)) = &marked {
                forget(&control, &mut store, info, id)?;
            }
            Ok(FromTarget::Unknown)
        }
    }
}

/// Lets a domain run that was told to, unless it does.
fn let_run(control: &Control, domain: u16, uuid: &str) -> Result<()> {
    let waits = control
        .domains()?
        .iter()
        .any(|info| info.id == domain && info.uuid == uuid && info.paused);
    match waits {
        true => control.unpause(domain),
        false => Ok(()),
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
                ToSource::Ready => FromTarget::Ready {
                    finish_ms: 0,
                    devices_ms: 0,
                },
                ToSource::Running => FromTarget::Running {
                    domain: arrival.domain,
                },
                ToSource::Gone => FromTarget::Gone {
                    why: "it was given up".into(),
                },
            }));
        }
        TargetAction::Run => {
            let (control, mut store) = (Control::open()?, Store::open()?);
            if arrival.state != state {
                fault::at(Point::TargetCommit);
                let mut new = arrival.clone();
                new.state = state;
                // The commit point: once this is on disk, it runs here.
                if let Err(error) = new.write() {
                    complain!("overcast: {}: {error}", arrival.name);
                    return step(arrival, TargetEvent::Failed);
                }
                *arrival = new;
            }
            // For a Dom0 that loses the disk's word.
            if let Err(error) = mark(&mut store, arrival, RUNNING) {
                complain!("overcast: {}: {error}", arrival.name);
            }
            fault::at(Point::TargetWritten);
            let_run(&control, arrival.domain, &arrival.uuid)?;
            fault::at(Point::TargetRunning);
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
    moves: &Moves,
) -> std::result::Result<(Saved, Incoming, Vec<Attached>), Vec<String>> {
    let mut reasons = Vec::new();
    let saved = match config::from_json(&offer.config) {
        Ok(saved) => saved,
        Err(error) => return Err(vec![error.to_string()]),
    };
    let wanted = offer.memory_kib.max(saved.config.memory_kib);
    if let Err(error) = check(control, store, &saved, wanted) {
        reasons.push(error.to_string());
    }
    // Those that are under way have no name in the store yet.
    let comes = lock(moves).arrivals.values().any(|arrival| {
        matches!(arrival.state, State::Receiving | State::Ready)
            && arrival.name == saved.config.name
    });
    if comes {
        reasons.push(format!(
            "\"{}\" is on its way here already",
            saved.config.name
        ));
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
            .for_each(|obstacle| complain!("overcast: {}: {obstacle}", saved.config.name)),
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

/// Says why a domain is not taken.
fn refuse<T>(channel: &mut Channel, reasons: Vec<String>) -> Result<T> {
    let why = reasons.join("; ");
    wire::send(channel, &FromTarget::Refuse { reasons })?;
    Err(Error::Refused(why))
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
    let known = || vec!["a move of this number was here already".to_owned()];
    let was_here =
        lock(moves).arrivals.contains_key(&offer.id) || Arrival::find(&offer.id)?.is_some();
    let prepared = match was_here {
        true => Err(known()),
        false => prepare(&control, &mut store, offer, moves),
    };
    let (mut saved, mut new, disks) = match prepared {
        Ok(prepared) => prepared,
        Err(reasons) => return refuse(&mut channel, reasons),
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
        uuid: saved.uuid.clone(),
        state: State::Receiving,
        from: channel.peer(),
        process: Process::this(),
    };
    let (waiting, came) = mpsc::channel();
    let is_new = {
        let mut moves = lock(moves);
        // Somebody may have offered it twice at the same time.
        let is_new = !moves.arrivals.contains_key(&offer.id);
        if is_new {
            moves.arrivals.insert(offer.id.clone(), arrival.clone());
            moves.waiting.insert(offer.id.clone(), waiting);
        }
        is_new
    };
    if !is_new {
        new.remove(&control, &mut store);
        return refuse(&mut channel, known());
    }
    let disks = (!disks.is_empty()).then(|| expected.expect(&offer.id, disks));
    // Dom0 lets them go at the end: the guest does not wait for that.
    let mut filled = None;
    let mut times = (Duration::ZERO, Duration::ZERO);
    // In this order: a marked domain of which there is no record is one whose record was lost.
    let written = arrival
        .write()
        .and_then(|()| mark(&mut store, &arrival, RECEIVING));
    let received = written
        .and_then(|()| wire::send(&mut channel, &FromTarget::Accept { streams }))
        .and_then(|()| {
            fault::at(Point::TargetOffer);
            joined(&came, streams)
        });
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
        // It has made the domain's nodes anew.
        mark(&mut store, &arrival, RECEIVING)?;
        cpu::remember(&mut store, &saved.uuid, &cpu::set_of(&saved.seen))?;
        let mut stream = StreamReader::of(inlet(lanes, &mut caught));
        (_, times.0) = new.receive(&control, &mut stream, &mut |_, pages, _| {
            if pages != 0 {
                fault::at(Point::TargetPage);
            }
        })?;
        stream.finish()?;
        filled = disks.as_ref().map(|disks| disks.wait()).transpose()?;
        let begin = Instant::now();
        new.introduce(&mut store)?;
        times.1 = begin.elapsed();
        new.remember(&control, &mut saved);
        fault::at(Point::TargetComplete);
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
    fault::at(Point::TargetReady);
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
