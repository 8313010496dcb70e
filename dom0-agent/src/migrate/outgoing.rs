//! The source's end of a move.
//!
//! [`Move::run`] goes through it; whatever fails, [`handover::Source`] says what becomes of the
//! guest, and it is done before the error is shown.

use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use xen_abi::domctl::{
    XEN_DOMCTL_SHADOW_OP_CLEAN, XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY, XEN_DOMCTL_SHADOW_OP_OFF,
};
use xen_abi::errno;

use super::config;
use super::disks;
use super::disks::source::{Mirror, Plan};
use super::fault::{self, Point};
use super::guest::Leaving;
use super::handover::{Source as State, SourceAction, SourceEvent, ToSource};
use super::lanes::{self, Outlet};
use super::pace::Pace;
use super::policy::{self, Goals, Next};
use super::recover::now;
use super::signals::was_interrupted;
use super::status::{Claim, Pause, Process, Round, Status, claim};
use super::suspend::{check_up, let_go_on, suspend};
use super::target::{SILENCE, ask, connect, given_up, heard, peer};
use super::tls::Channel;
use super::wire::{self, Compression, FromSource, FromTarget, Offer};
use crate::build;
use crate::control::{Control, DomainInfo, Share};
use crate::error::{Error, Result};
use crate::store::Store;
use crate::stream;
use crate::stream::save::{Channel as Taking, FrameSet, Saver};

/// How long it may take to put the guest together, after the last byte.
const READY: Duration = Duration::from_secs(120);
/// Between two questions of what became of the guest.
const ASK: Duration = Duration::from_secs(2);
/// How often it is looked how far disks are, and the target told that there is somebody.
const LOOK: Duration = Duration::from_millis(50);
const SIGN: Duration = Duration::from_secs(5);

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to.
    pub host: String,
    /// Plain TCP.
    pub plain: bool,
    /// Its name there.
    pub name: Option<String>,
    /// Only ask whether it could be.
    pub dry_run: bool,
    /// Move it although the target's CPU lacks what it has seen.
    pub force_cpu: bool,
    /// Its disks come along.
    pub with_disks: bool,
    /// Send nothing while the guest runs.
    pub offline: bool,
    /// How the stream is packed.
    pub compression: Compression,
    /// Connections for the stream.
    pub streams: u32,
    /// How its pages are taken.
    pub channel: Taking,
    /// Bytes in a second at most; 0 for no limit.
    pub bandwidth: u64,
    /// When to suspend it.
    pub goals: Goals,
    /// How long the guest may take to suspend.
    pub patience: Duration,
}

/// A move.
pub struct Move<'a> {
    control: &'a Control,
    store: &'a mut Store,
    domain: u16,
    options: Options,
    status: Status,
    begin: Instant,
    /// What a pause takes without pages, as far as is known.
    fixed: Duration,
    /// When it was asked to suspend.
    asked_at: Option<Instant>,
    logging: bool,
    /// What keeps it to the bandwidth that was given.
    pace: Arc<Pace>,
    /// Its disks, as long as they are copied.
    mirror: Option<Mirror>,
    /// Nobody else saves or moves it meanwhile.
    _claim: Claim,
    /// vCPUs of the guest.
    vcpus: u32,
    written: Instant,
    tell: &'a mut dyn FnMut(&Status, u64, u64),
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl<'a> Move<'a> {
    /// Of a domain; `tell` is told how it goes, with pages done of pages.
    ///
    /// # Errors
    /// `Usage` if it is being saved or moved already.
    pub fn new(
        control: &'a Control,
        store: &'a mut Store,
        info: &DomainInfo,
        options: Options,
        tell: &'a mut dyn FnMut(&Status, u64, u64),
    ) -> Result<Self> {
        let id: [u8; 8] = build::random()?;
        let id = id.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self {
            status: Status {
                id,
                name: String::new(),
                domain: info.id,
                uuid: info.uuid.clone(),
                host: options.host.clone(),
                target: String::new(),
                plain: options.plain,
                process: Process::this(),
                state: State::Running,
                asked: None,
                share: None,
                message: "connecting".into(),
                live: false,
                rounds: Vec::new(),
                dirty_rate: 0,
                throughput: 0,
                predicted_downtime_ms: 0,
                downtime_ms: None,
                pause: Pause::default(),
                streams: 0,
                answer_ms: 0,
                total_ms: 0,
                bytes: 0,
                stream_bytes: 0,
                disk_passes: Vec::new(),
                disk_bytes: 0,
                throttled_to: 0,
            },
            control,
            store,
            domain: info.id,
            pace: Arc::new(Pace::new(options.bandwidth)),
            mirror: None,
            options,
            begin: Instant::now(),
            fixed: policy::FIXED,
            asked_at: None,
            logging: false,
            _claim: claim(&info.uuid)?,
            vcpus: 1,
            written: Instant::now(),
            tell,
        })
    }

    fn report(&mut self, message: &str, done: u64, all: u64) {
        self.status.total_ms = milliseconds(self.begin.elapsed());
        let new = self.status.message != message;
        if new || self.written.elapsed() >= Duration::from_millis(500) {
            message.clone_into(&mut self.status.message);
            self.written = Instant::now();
            // It is for those who look on.
            let _ = self.status.write(false);
        }
        (self.tell)(&self.status, done, all);
    }

    fn check_cancelled(&self) -> stream::Result<()> {
        if was_interrupted() || self.status.cancelled() {
            return Err(super::guest::machine(Error::Cancelled));
        }
        Ok(())
    }

    /// Does it.
    ///
    /// # Errors
    /// Why the guest stays here. It runs then as before, unless the error says otherwise.
    pub fn run(mut self, info: &DomainInfo) -> Result<Status> {
        let result = self.attempt(info);
        self.tidy();
        self.status.total_ms = milliseconds(self.begin.elapsed());
        let stayed = match result {
            Ok(()) => Ok(()),
            Err(_) => self.stay(),
        };
        self.status.message = match &result {
            Ok(()) if self.options.dry_run => "it could be moved".into(),
            Ok(()) => "done".into(),
            Err(error) => error.to_string(),
        };
        let _ = self.status.write(true);
        self.status.clear_cancel();
        if let Err(error) = &stayed {
            complain!("overcast: {}: {error}", self.status.name);
        }
        result.and(stayed)?;
        Ok(self.status)
    }

    /// Something failed: unless the target decides, the guest goes on, before anybody is told.
    /// Nothing happens if that is done already.
    fn stay(&mut self) -> Result<()> {
        if self.status.state == State::Doubt {
            return Ok(());
        }
        self.tidy();
        let (state, action) = self.status.state.on(SourceEvent::Failed);
        self.status.state = state;
        self.act(action)
    }

    /// What is to be done with the guest here.
    fn act(&mut self, action: SourceAction) -> Result<()> {
        match action {
            SourceAction::Resume if self.status.asked.is_some() => {
                let goes_on =
                    let_go_on(self.control, self.store, self.domain, self.options.patience)?;
                if !goes_on {
                    return Err(Error::Timeout(
                        "the domain began to suspend, and is not done; `overcast migrate-recover` lets it go on then"
                            .into(),
                    ));
                }
                self.status.asked = None;
                Ok(())
            }
            SourceAction::Remove => {
                build::remove(self.control, self.store, self.domain)?;
                self.status.asked = None;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Undoes what was set for the time of the move.
    fn tidy(&mut self) {
        if let Some(share) = self.status.share.take() {
            // The domain may be gone.
            let _ = self.control.set_share(self.domain, share);
        }
        if std::mem::take(&mut self.logging) {
            let _ = self
                .control
                .shadow_switch(self.domain, XEN_DOMCTL_SHADOW_OP_OFF);
        }
    }

    fn attempt(&mut self, info: &DomainInfo) -> Result<()> {
        self.vcpus = info.vcpus.max(1);
        let share = self.control.share(self.domain)?;
        let mut saved = config::of_domain(self.store, info, share)?;
        self.status.name.clone_from(&saved.config.name);
        if let Some(name) = &self.options.name {
            saved.config.name.clone_from(name);
        }
        let policy = self.control.cpu_policy(self.domain)?;
        let seen = crate::cpu::seen(self.control, self.store, self.domain, &saved.uuid)?;
        saved.seen = crate::cpu::names_of(&seen.visible);
        let disks = match self.options.with_disks {
            true => Some(Plan::new(self.store, self.domain, &saved.config)?),
            false => None,
        };
        let disks = disks.filter(|plan| !plan.is_empty());
        let (mut channel, target) = connect(&self.options.host, self.options.plain)?;
        if disks.is_some() && !target.features.iter().any(|it| it == disks::FEATURE) {
            return Err(peer(format!("it ({}) takes no disks", target.software)));
        }
        self.status.target = target.host;
        self.report("asking the target", 0, 0);
        let asked = Instant::now();
        wire::send(
            &mut channel,
            &FromSource::Offer(Box::new(Offer {
                id: self.status.id.clone(),
                config: config::to_json(&saved),
                dry_run: self.options.dry_run,
                memory_kib: info.memory_kib,
                leaves: policy
                    .leaves
                    .iter()
                    .map(|l| [l.leaf, l.subleaf, l.a, l.b, l.c, l.d])
                    .collect(),
                msrs: policy.msrs.iter().map(|msr| (msr.idx, msr.val)).collect(),
                force_cpu: self.options.force_cpu,
                disks: disks.as_ref().map(Plan::offers).unwrap_or_default(),
                streams: self.options.streams.clamp(1, lanes::MOST),
            })),
        )?;
        let streams = match wire::receive(&mut channel)? {
            FromTarget::Accept { streams } => streams.clamp(1, self.options.streams.max(1)),
            FromTarget::Refuse { reasons } => {
                return Err(Error::Refused(reasons.join("; ")));
            }
            FromTarget::Gone { why } => return Err(peer(format!("the target gave up: {why}"))),
            _ => return Err(peer("the target gives no answer to the offer")),
        };
        // It has just made a domain and looked at it, much as it does at the end.
        let prepared = asked.elapsed();
        if self.options.dry_run {
            return Ok(());
        }
        fault::at(Point::SourceOffer);
        match self.send_all(&mut channel, streams, prepared, disks.as_ref()) {
            Ok(lanes) => self.hand_over(channel, lanes),
            Err(error) => {
                let stayed = self.stay();
                let error = given_up(error, &mut channel);
                stayed?;
                Err(error)
            }
        }
    }

    /// Makes the connections of the stream.
    fn join(&self, streams: u32) -> Result<Vec<Channel>> {
        let lane = |lane| {
            let (mut channel, _) = connect(&self.options.host, self.options.plain)?;
            let id = self.status.id.clone();
            wire::send(&mut channel, &FromSource::Join { id, lane })?;
            match wire::receive(&mut channel)? {
                FromTarget::Joined => Ok(channel),
                FromTarget::Gone { why } => Err(peer(format!("the target gave up: {why}"))),
                _ => Err(peer("the target does not take the stream")),
            }
        };
        (0..streams).map(lane).collect()
    }

    /// Copies the disks until little is left of them; the rest goes on beside the memory.
    fn mirror_disks(
        &mut self,
        plan: &Plan,
        saver: &mut Saver<Leaving<'_>, Outlet<Channel>>,
        channel: &mut Channel,
    ) -> Result<()> {
        self.report("beginning with its disks", 0, 0);
        let (mut own, _) = connect(&self.options.host, self.options.plain)?;
        let id = self.status.id.clone();
        wire::send(&mut own, &FromSource::Disks { id })?;
        let goals = self.options.goals;
        let goals = disks::source::Goals {
            pause: goals.downtime / 2,
            // None at all is no limit.
            timeout: match goals.timeout {
                Duration::ZERO => Duration::ZERO,
                time => time.saturating_sub(self.begin.elapsed()).max(LOOK),
            },
            suspend_anyway: goals.suspend_at_timeout,
        };
        let packing = self.options.compression;
        let pace = Arc::clone(&self.pace);
        let mirror = plan.start(self.control, self.store, own, packing, pace, goals)?;
        self.mirror = Some(mirror);
        let mut sign = Instant::now();
        while !self.check_disks()? {
            self.check_cancelled()?;
            let progress = self.mirror.as_ref().map(Mirror::progress);
            let progress = progress.unwrap_or_default();
            let message = match progress.passes.len() {
                0 => "copying its disks".to_owned(),
                count => format!("copying its disks, pass {}", count + 1),
            };
            self.report(&message, progress.done, progress.all);
            if sign.elapsed() >= SIGN {
                sign = Instant::now();
                self.catch_up(saver, channel)?;
            }
            sleep(LOOK);
        }
        Ok(())
    }

    /// Whether little is left of the disks, if they come along.
    ///
    /// # Errors
    /// Why they are copied no more.
    fn check_disks(&mut self) -> Result<bool> {
        let Some(mirror) = &self.mirror else {
            return Ok(true);
        };
        let progress = mirror.progress();
        self.status.disk_bytes = progress.bytes;
        self.status.disk_passes = progress.passes;
        mirror.settled()
    }

    /// The guest is suspended and sent: waits until its disks are at the target.
    fn finish_disks(&mut self) -> Result<()> {
        if self.mirror.is_none() {
            return Ok(());
        }
        self.report("waiting for its disks", 0, 0);
        if let Some(mirror) = &self.mirror {
            mirror.wait()?;
            let progress = mirror.progress();
            self.status.disk_bytes = progress.bytes;
            self.status.disk_passes = progress.passes;
        }
        Ok(())
    }

    /// Sends the guest; it is suspended then. Gives the connections of its stream, which must
    /// last until the target has read it.
    fn send_all(
        &mut self,
        channel: &mut Channel,
        streams: u32,
        prepared: Duration,
        disks: Option<&Plan>,
    ) -> Result<Vec<Channel>> {
        let lanes = self.join(streams)?;
        self.status.streams = streams;
        let guest = Leaving::new(self.control, self.domain)?;
        let outlet = Outlet::new(lanes, self.options.compression);
        let mut saver = Saver::new(guest, outlet, true)?.by(self.options.channel);
        // The second time it goes by ways that are known.
        self.catch_up(&mut saver, channel)?;
        let answer = self.catch_up(&mut saver, channel)?;
        self.status.answer_ms = milliseconds(answer);
        self.fixed = self.learned().unwrap_or_else(|| {
            let answers = answer.saturating_mul(2);
            policy::FIXED.max(prepared.saturating_add(answers))
        });
        let sent = match disks {
            Some(disks) => self.mirror_disks(disks, &mut saver, channel),
            None => Ok(()),
        };
        if let Err(error) = sent.and_then(|()| self.rounds(&mut saver, channel)) {
            // Before the connections are given up, which may take long.
            self.stay()?;
            return Err(error);
        }
        let begin = Instant::now();
        self.status.stream_bytes = saver.written();
        let (_, outlet) = saver.finish()?;
        let (lanes, bytes) = outlet.finish()?;
        self.status.bytes = bytes;
        if let Some((last, before)) = self.status.rounds.split_last_mut() {
            let before = before.iter().map(|round| round.bytes);
            last.bytes = bytes.saturating_sub(before.fold(0, u64::saturating_add));
        }
        self.status.pause.state_ms = milliseconds(begin.elapsed());
        self.finish_disks()?;
        Ok(lanes)
    }

    /// What pauses took without pages when guests went to that host before.
    fn learned(&self) -> Option<Duration> {
        let all = Status::all().ok()?;
        let gone = all
            .iter()
            .rfind(|status| status.state == State::Gone && status.host == self.options.host)?;
        Some(Duration::from_millis(gone.pause.fixed_ms())).filter(|fixed| !fixed.is_zero())
    }

    /// Waits until the target has read all that was sent; how long.
    fn catch_up(
        &self,
        saver: &mut Saver<Leaving<'_>, Outlet<Channel>>,
        channel: &mut Channel,
    ) -> Result<Duration> {
        let begin = Instant::now();
        saver.output().mark()?;
        let mut packed = saver.output().packed();
        loop {
            let answer = wire::receive(channel);
            let before = std::mem::replace(&mut packed, saver.output().packed());
            match answer {
                Ok(FromTarget::Caught) => return Ok(begin.elapsed()),
                Ok(FromTarget::Gone { why }) => {
                    return Err(peer(format!("the target gave up: {why}")));
                }
                Ok(_) => return Err(peer("the target does not say how far it is")),
                // The line is slow, and what was on its way went on.
                Err(Error::Io(error))
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
                        && packed != before => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn rounds(
        &mut self,
        saver: &mut Saver<Leaving<'_>, Outlet<Channel>>,
        channel: &mut Channel,
    ) -> Result<()> {
        let mut next = saver.all();
        if !self.options.offline {
            match self
                .control
                .shadow_switch(self.domain, XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY)
            {
                Ok(()) => {
                    self.logging = true;
                    self.status.live = true;
                }
                Err(Error::Hypercall {
                    errno: errno::EOPNOTSUPP | errno::ENOSYS | errno::EINVAL,
                    ..
                }) => complain!(
                    "overcast: this hypervisor does not log written pages: the guest is suspended while it is sent"
                ),
                Err(error) => return Err(error),
            }
        }
        while self.logging {
            let begin = Instant::now();
            let mut round = self.round(saver, &next, true)?;
            fault::at(Point::SourceRound);
            self.catch_up(saver, channel)?;
            let before = self.status.rounds.iter().map(|round| round.bytes);
            let before = before.fold(0, u64::saturating_add);
            round.bytes = saver.output().packed().saturating_sub(before);
            round.ms = milliseconds(begin.elapsed());
            next = self.dirty(saver, false)?;
            round.dirty = next.len();
            self.status.rounds.push(round);
            self.status.dirty_rate = policy::dirty_rate(&round);
            self.status.throughput = policy::throughput(&round);
            let predicted = policy::predict(&self.status.rounds, self.fixed);
            self.status.predicted_downtime_ms = milliseconds(predicted);
            let decision = policy::next(
                &self.status.rounds,
                self.begin.elapsed(),
                self.options.goals,
                self.fixed,
                self.status.throttled_to,
            );
            match decision {
                Next::Continue => {}
                Next::Throttle(cap) => self.throttle(cap)?,
                Next::Stop => break,
                Next::GiveUp => {
                    return Err(Error::Timeout(format!(
                        "the guest writes {} pages in a second, too many to move it within {} s with a downtime of {} ms",
                        self.status.dirty_rate,
                        self.options.goals.timeout.as_secs(),
                        milliseconds(self.options.goals.downtime)
                    )));
                }
            }
        }
        self.report("waiting for the guest to suspend", 0, 0);
        self.check_cancelled()?;
        check_up(self.control, self.domain)?;
        self.status.asked = Some(now());
        self.status.write(true)?;
        self.asked_at = Some(Instant::now());
        let suspended = suspend(self.control, self.store, self.domain, self.options.patience)?;
        let begin = Instant::now();
        self.status.pause.suspend_ms = milliseconds(suspended);
        let (state, _) = self.status.state.on(SourceEvent::Suspended);
        self.status.state = state;
        // For those who look on: that it was asked is written down.
        self.status.write(false)?;
        if let Some(mirror) = &self.mirror {
            mirror.finish();
        }
        fault::at(Point::SourceSuspended);
        if self.logging {
            next.add(&self.dirty(saver, true)?);
            next.add(&saver.deferred());
        }
        self.status.pause.log_ms = milliseconds(begin.elapsed());
        let round = self.round(saver, &next, false)?;
        self.status.pause.pages_ms = round.ms;
        self.status.rounds.push(round);
        Ok(())
    }

    /// Frames that were written since the last time, or must be sent again for another reason.
    fn dirty(
        &mut self,
        saver: &mut Saver<Leaving<'_>, Outlet<Channel>>,
        last: bool,
    ) -> Result<FrameSet> {
        let pages = saver.max_pfn().0 + 1;
        let log = self
            .control
            .dirty_log(self.domain, XEN_DOMCTL_SHADOW_OP_CLEAN, pages, last)?;
        Ok(FrameSet::from_words(log.bitmap))
    }

    /// Gives the guest less CPU.
    fn throttle(&mut self, cap: u16) -> Result<()> {
        let now = self.control.share(self.domain)?;
        self.status.share.get_or_insert(now);
        self.status.throttled_to = cap;
        // Whoever takes this up must know what it was.
        self.status.write(true)?;
        let vcpus = u16::try_from(self.vcpus).unwrap_or(u16::MAX);
        let share = Share {
            cap: cap.saturating_mul(vcpus),
            ..now
        };
        self.control.set_share(self.domain, share)
    }

    /// Sends pages.
    fn round(
        &mut self,
        saver: &mut Saver<Leaving<'_>, Outlet<Channel>>,
        frames: &FrameSet,
        running: bool,
    ) -> Result<Round> {
        let number = self.status.rounds.len() + 1;
        let message = match running {
            true => format!("round {number}"),
            false => "the guest is suspended; sending the rest".to_owned(),
        };
        let all = frames.len();
        let begin = Instant::now();
        let before = saver.output().packed();
        let mut paid = before;
        let (mut total, mut done) = (stream::save::Sent::default(), 0);
        // In slices, between which the world is looked at.
        let mut slice = FrameSet::new(saver.max_pfn());
        let mut frames = frames.iter().peekable();
        while frames.peek().is_some() {
            let mut count = 0;
            slice.clear();
            for pfn in frames.by_ref().take(stream::BATCH) {
                slice.insert(pfn);
                count += 1;
            }
            let sent = saver.send(&slice, running, |_| Ok(()))?;
            total = stream::save::Sent {
                pages: total.pages + sent.pages,
                zeros: total.zeros + sent.zeros,
                tables: total.tables + sent.tables,
            };
            done += count;
            self.check_cancelled()?;
            self.status.bytes = saver.output().packed();
            self.report(&message, done, all);
            if running {
                self.check_disks()?;
                self.pace.spend(self.status.bytes.saturating_sub(paid));
                paid = self.status.bytes;
            }
        }
        saver.output().flush()?;
        Ok(Round {
            pages: total.pages,
            zeros: total.zeros,
            bytes: saver.output().packed().saturating_sub(before),
            ms: milliseconds(begin.elapsed()),
            dirty: 0,
        })
    }

    /// From the last byte to the word of the target.
    fn hand_over(&mut self, mut channel: Channel, lanes: Vec<Channel>) -> Result<()> {
        self.report("waiting for the target to be ready", 0, 0);
        let begin = Instant::now();
        channel.set_patience(Some(READY))?;
        match wire::receive(&mut channel)? {
            FromTarget::Ready {
                finish_ms,
                devices_ms,
            } => {
                let pause = &mut self.status.pause;
                (pause.finish_ms, pause.devices_ms) = (finish_ms, devices_ms);
                pause.ready_ms = milliseconds(begin.elapsed());
            }
            FromTarget::Gone { why } => return Err(peer(format!("the target gave up: {why}"))),
            _ => return Err(peer("the target is not ready")),
        }
        fault::at(Point::SourceReady);
        // It has read them.
        drop(lanes);
        let ready = Instant::now();
        self.check_cancelled()?;
        let (state, action) = self.status.state.on(SourceEvent::Heard(ToSource::Ready));
        if action != SourceAction::Commit {
            return Err(peer("the target is ready too early"));
        }
        // From here on the target decides.
        let mut doubtful = self.status.clone();
        doubtful.state = state;
        doubtful.message = "handed over; waiting for the target's word".into();
        // If that cannot be written down, nothing was handed over.
        doubtful.write(true)?;
        self.status = doubtful;
        fault::at(Point::SourceDoubt);
        let mut answer = channel
            .set_patience(Some(SILENCE))
            .and_then(|()| wire::send(&mut channel, &FromSource::Commit))
            .and_then(|()| {
                fault::at(Point::SourceCommit);
                wire::receive::<FromTarget>(&mut channel)
            })
            .map(|answer| heard(&answer, true));
        drop(channel);
        self.status.pause.commit_ms = milliseconds(ready.elapsed());
        loop {
            let message = match answer {
                Ok(Some(heard)) => return self.answered(heard),
                Ok(None) => "in doubt: the host that answers does not know of it; asking again",
                Err(_) => "in doubt: the link was cut; asking the target",
            };
            self.report(message, 0, 0);
            if was_interrupted() {
                return Err(peer(
                    "the link was cut in the moment of the handover, and it is not known whether the target runs \
                     the guest. It is suspended here; `overcast migrate-recover` asks the target again",
                ));
            }
            sleep(ASK);
            answer = ask(&self.status);
        }
    }

    /// What follows from the target's word.
    fn answered(&mut self, heard: ToSource) -> Result<()> {
        if heard == ToSource::Running {
            fault::at(Point::SourceRunning);
            let downtime = self.asked_at.map(|at| milliseconds(at.elapsed()));
            self.status.downtime_ms = downtime;
        }
        let (state, action) = self.status.state.on(SourceEvent::Heard(heard));
        self.tidy();
        // Written down when it is done: until then it is asked for again.
        self.act(action)?;
        self.status.state = state;
        match state {
            State::Gone => Ok(()),
            _ => Err(peer("the target gave up")),
        }
    }
}
