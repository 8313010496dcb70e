//! `overcast daemon`: keeps guests' consoles drained and what they print, does what is to be
//! done when a domain that `overcast create` made has ended, and takes up moves that their
//! processes left ([`Watch`]).
//!
//! One loop waits for the store (domains come and go), event channels (consoles), the socket
//! ([`crate::console::client`] says what is spoken there) and a terminal for each console
//! ([`crate::console::pty`], for `xl console`). It holds nothing that could not be lost: ended
//! and started anew, it takes all consoles again.
//!
//! # Invariants
//! - A console is served while its domain is there, and given up as soon as the domain is
//!   dying: its page is the domain's memory.
//! - What is kept of a console is bounded: [`KEPT`] bytes in memory, two files of [`MAX_LOG`].
//! - A client that does not read is disconnected when [`MAX_PENDING`] bytes wait for it. Nothing
//!   that is typed is lost: who types more than the guest takes is not read from meanwhile.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::build::{self, nodes};
use crate::commands::create;
use crate::config::DomainConfig;
use crate::config::domain::Event;
use crate::console::Port;
use crate::console::pty::Pty;
use crate::control::{Control, DomainInfo, Shutdown};
use crate::cpu::{self, file::PolicyFile};
use crate::error::{Error, Result};
use crate::migrate::config::Saved;
use crate::migrate::recover::Watch;
use crate::migrate::{disks, incoming};
use crate::poll::{self, Ready, Wanted};
use crate::store::Store;
use crate::xen::evtchn::EventChannels;

/// Where clients ask for consoles.
pub const SOCKET: &str = "/run/overcast/daemon";
/// What is known of domains that `overcast create` made or that came from elsewhere, a file
/// each, by UUID.
const DOMAINS: &str = "/run/overcast/domains";
/// Where consoles are logged, a file a domain.
const LOGS: &str = "/var/log/overcast";
/// What is kept of a console for those who attach to it, bytes.
const KEPT: usize = 64 << 10;
/// A log that grew so long, in bytes, is put aside, and the one before it is gone.
const MAX_LOG: u64 = 1 << 20;
/// What may wait for a client, bytes.
const MAX_PENDING: usize = 256 << 10;
/// What may be typed ahead, bytes.
const MAX_TYPED: usize = 16 << 10;
/// The most clients.
const MAX_CLIENTS: usize = 64;
/// How often domains are looked at, whatever the store says.
const LOOK: Duration = Duration::from_secs(1);
/// A domain that ended sooner after it was started is not started again.
const LEAST_LIFE: Duration = Duration::from_secs(5);

/// Remembers what a domain is, for the daemon.
pub fn remember(uuid: &str, config: &DomainConfig) -> Result<()> {
    fs::create_dir_all(DOMAINS)?;
    let path = Path::new(DOMAINS).join(uuid);
    fs::write(path, serde_json::to_vec(config)?)?;
    Ok(())
}

/// A domain is called otherwise.
pub fn renamed(uuid: &str, name: &str) -> Result<()> {
    match remembered(uuid) {
        Some((mut config, age)) => {
            config.name = name.to_owned();
            remember(uuid, &config)?;
            // When it was remembered says how long it has lived.
            let path = Path::new(DOMAINS).join(uuid);
            let begun = SystemTime::now().checked_sub(age);
            let file = OpenOptions::new().write(true).open(path)?;
            Ok(file.set_modified(begun.unwrap_or(UNIX_EPOCH))?)
        }
        None => Ok(()),
    }
}

/// Remembers a domain that came from elsewhere. A CPU that was asked for by a file of that
/// machine is kept in one of this machine.
pub fn remember_arrival(control: &Control, domain: u16, saved: &mut Saved) -> Result<()> {
    if let Some(name) = &saved.config.cpu
        && !cpu::has_name(name)
    {
        let policy = cpu::parse(&control.cpu_policy(domain)?)?;
        let path = cpu_file(&saved.uuid);
        fs::create_dir_all(DOMAINS)?;
        fs::write(&path, serde_json::to_vec(&PolicyFile::of(&policy, &[]))?)?;
        saved.config.cpu = Some(path.display().to_string());
    }
    remember(&saved.uuid, &saved.config)
}

/// Where a domain's CPU is kept.
fn cpu_file(uuid: &str) -> PathBuf {
    Path::new(DOMAINS).join(format!("{uuid}.cpu"))
}

/// Forgets a domain.
pub fn forget(uuid: &str) {
    let _ = fs::remove_file(Path::new(DOMAINS).join(uuid));
    let _ = fs::remove_file(cpu_file(uuid));
}

/// What a domain is, and for how long that has been known.
pub fn remembered(uuid: &str) -> Option<(DomainConfig, Duration)> {
    let path = Path::new(DOMAINS).join(uuid);
    let config = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
    let age = fs::metadata(&path).ok()?.modified().ok()?.elapsed();
    Some((config, age.unwrap_or(Duration::MAX)))
}

/// What is to be done when a domain has ended so.
fn event_for(config: &DomainConfig, shutdown: Shutdown) -> Event {
    match shutdown {
        Shutdown::Poweroff => config.on_poweroff,
        Shutdown::Reboot => config.on_reboot,
        Shutdown::Crash | Shutdown::Watchdog => config.on_crash,
        // Somebody saves it.
        Shutdown::Suspend | Shutdown::Other => Event::Preserve,
    }
}

/// A log with an end.
struct Log {
    path: PathBuf,
    file: Option<File>,
    size: u64,
}

impl Log {
    fn open(name: &str) -> Self {
        // A name has no slashes; what Xen's tools called so is not trusted to have none.
        let name = name.replace(['/', '\0'], "_");
        let path = Path::new(LOGS).join(format!("{name}.log"));
        let _ = fs::create_dir_all(LOGS);
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .ok();
        let size = file
            .as_ref()
            .and_then(|file| file.metadata().ok())
            .map_or(0, |metadata| metadata.len());
        Self { path, file, size }
    }

    fn write(&mut self, data: &[u8]) {
        if self.size > MAX_LOG {
            let mut aside = self.path.clone();
            aside.set_extension("log.1");
            let _ = fs::rename(&self.path, aside);
            self.file = File::create(&self.path).ok();
            self.size = 0;
        }
        if let Some(file) = &mut self.file
            && file.write_all(data).is_ok()
        {
            self.size = self.size.saturating_add(data.len() as u64);
        }
    }
}

/// A console that is served.
struct Console {
    port: Port,
    /// What was printed of late.
    kept: VecDeque<u8>,
    /// What was typed, and there was no room for.
    typed: VecDeque<u8>,
    /// Its terminal, if it can have one.
    pty: Option<Pty>,
    log: Log,
}

impl Console {
    /// How much more can be typed ahead, bytes.
    fn room(&self) -> usize {
        MAX_TYPED.saturating_sub(self.typed.len())
    }

    /// Its terminal can be read or written.
    fn serve_terminal(&mut self, ready: Ready) {
        let room = self.room();
        if let Some(pty) = &mut self.pty {
            if ready.read {
                self.typed.extend(pty.typed(room));
            }
            if ready.write {
                pty.flush();
            }
        }
    }
}

/// Somebody at the socket.
struct Client {
    stream: UnixStream,
    /// What it asked, as long as that is not a whole line.
    request: Vec<u8>,
    /// The domain whose console it has.
    console: Option<u16>,
    /// What it has not taken yet.
    pending: VecDeque<u8>,
    /// It is to be gone when it has taken all.
    leaving: bool,
    gone: bool,
}

impl Client {
    fn send(&mut self, data: impl IntoIterator<Item = u8>) {
        if self.gone {
            return;
        }
        self.pending.extend(data);
        self.gone = self.pending.len() > MAX_PENDING;
    }

    /// Writes what waits, as far as it goes.
    fn flush(&mut self) {
        while !self.pending.is_empty() && !self.gone {
            let (first, _) = self.pending.as_slices();
            match self.stream.write(first) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.gone = true,
            }
        }
        self.gone |= self.leaving;
    }
}

struct Daemon {
    control: Control,
    store: Store,
    events: EventChannels,
    listener: UnixListener,
    consoles: BTreeMap<u16, Console>,
    clients: Vec<Client>,
    /// Domains whose end was dealt with, by UUID.
    dealt_with: Vec<(u16, String)>,
    /// Takes up moves that their processes left.
    moves: Watch,
    /// When domains were looked at.
    looked: Instant,
}

/// Runs until it is ended.
pub fn run() -> Result<()> {
    if UnixStream::connect(SOCKET).is_ok() {
        return Err(Error::Usage("the daemon runs already".to_owned()));
    }
    if let Some(directory) = Path::new(SOCKET).parent() {
        fs::create_dir_all(directory)?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    }
    let _ = fs::remove_file(SOCKET);
    let listener = UnixListener::bind(SOCKET)?;
    listener.set_nonblocking(true)?;
    let mut store = Store::open()?;
    store.watch("@introduceDomain", "domains")?;
    store.watch("@releaseDomain", "domains")?;
    let mut daemon = Daemon {
        control: Control::open()?,
        store,
        events: EventChannels::open()?,
        listener,
        consoles: BTreeMap::new(),
        clients: Vec::new(),
        dealt_with: Vec::new(),
        moves: Watch::default(),
        looked: Instant::now(),
    };
    if let Err(error) = daemon.sweep() {
        complain!("overcast: what others left: {error}");
    }
    daemon.look_at_domains()?;
    say!("overcast: the daemon runs");
    loop {
        daemon.turn()?;
    }
}

impl Daemon {
    /// How much a client may type, bytes.
    fn room(&self, client: &Client) -> usize {
        let console = client.console.and_then(|it| self.consoles.get(&it));
        console.map_or(MAX_TYPED, Console::room)
    }

    /// Takes away what others left: another Dom0 that died at its work, moves that were killed.
    fn sweep(&mut self) -> Result<()> {
        let (control, store) = (&self.control, &mut self.store);
        let results = [
            nodes::sweep(control, store),
            disks::sweep(control, store),
            incoming::sweep(control, store),
        ];
        results.into_iter().collect()
    }

    fn turn(&mut self) -> Result<()> {
        let mut wanted = vec![
            Wanted::read(self.store.as_fd()),
            Wanted::read(self.events.as_fd()),
            Wanted::read(self.listener.as_fd()),
        ];
        wanted.extend(self.clients.iter().map(|client| Wanted {
            file: client.stream.as_fd(),
            read: self.room(client) > 0,
            write: !client.pending.is_empty(),
        }));
        let terminals: Vec<u16> = self
            .consoles
            .iter()
            .filter_map(|(&id, console)| {
                let pty = console.pty.as_ref()?;
                wanted.push(Wanted {
                    file: pty.as_fd(),
                    read: console.room() > 0,
                    write: pty.waits(),
                });
                Some(id)
            })
            .collect();
        let timeout = LOOK.saturating_sub(self.looked.elapsed());
        let ready = poll::wait(&wanted, Some(timeout))?;
        drop(wanted);
        let (own, rest) = ready.split_at(3);
        let (clients, ptys) = rest.split_at(self.clients.len());
        if own[0].any() || self.looked.elapsed() >= LOOK {
            while self.store.wait_for(Duration::ZERO)?.is_some() {}
            self.look_at_domains()?;
        }
        // No more than there can be at once: a guest can send them as fast as they are taken.
        for _ in 0..=self.consoles.len() {
            match self.events.pending()? {
                // The console may be gone meanwhile.
                Some(port) => drop(self.events.unmask(port)),
                None => break,
            }
        }
        for (index, one) in clients.iter().enumerate() {
            if one.read {
                self.hear(index);
            } else if one.ended
                && let Some(client) = self.clients.get_mut(index)
            {
                client.gone = true;
            }
        }
        for (id, &one) in terminals.iter().zip(ptys) {
            if one.ended {
                // Somebody hung it up.
                self.give_terminal(*id);
            } else if let Some(console) = self.consoles.get_mut(id) {
                console.serve_terminal(one);
            }
        }
        if own[2].any() {
            self.welcome();
        }
        self.serve()?;
        self.moves.turn();
        for client in &mut self.clients {
            client.flush();
        }
        self.clients.retain(|client| !client.gone);
        Ok(())
    }

    fn welcome(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.clients.len() >= MAX_CLIENTS || stream.set_nonblocking(true).is_err() {
                continue;
            }
            self.clients.push(Client {
                stream,
                request: Vec::new(),
                console: None,
                pending: VecDeque::new(),
                leaving: false,
                gone: false,
            });
        }
    }

    /// A client has something to say.
    fn hear(&mut self, index: usize) {
        let room = match self.clients.get(index) {
            Some(client) => self.room(client),
            None => return,
        };
        let Some(client) = self.clients.get_mut(index) else {
            return;
        };
        let mut buffer = [0; 1024];
        let room = room.min(buffer.len());
        if room == 0 {
            return;
        }
        let count = match client
            .stream
            .read(buffer.get_mut(..room).unwrap_or_default())
        {
            Ok(0) => {
                // It has said all, and may still want to hear.
                client.leaving |= client.console.is_none();
                client.gone |= client.console.is_some();
                return;
            }
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => {
                client.gone = true;
                return;
            }
        };
        let mut data = buffer.get(..count).unwrap_or_default();
        if client.console.is_none() {
            let end = data.iter().position(|&byte| byte == b'\n');
            let (line, rest) = data.split_at(end.map_or(data.len(), |end| end + 1));
            client.request.extend_from_slice(line);
            data = rest;
            if end.is_none() {
                client.gone |= client.request.len() > 64;
                return;
            }
            let request = String::from_utf8_lossy(&client.request).trim().to_owned();
            client.request.clear();
            let (what, domain) = request.split_once(' ').unwrap_or((&request, ""));
            let domain = domain.parse::<u16>().ok();
            let console = domain.and_then(|domain| self.consoles.get(&domain));
            match (what, console) {
                ("console" | "log", Some(console)) => {
                    client.send(*b"ok\n");
                    client.send(console.kept.iter().copied());
                    client.console = domain.filter(|_| what == "console");
                    client.leaving = what == "log";
                }
                _ => {
                    client.send(*b"error not served here\n");
                    client.leaving = true;
                }
            }
        }
        if let Some(console) = client.console.and_then(|it| self.consoles.get_mut(&it)) {
            // What came behind a request was not reckoned with; it is little.
            console.typed.extend(data);
        }
    }

    /// Moves what guests print and what is typed.
    fn serve(&mut self) -> Result<()> {
        for (domain, console) in &mut self.consoles {
            let Some(ring) = console.port.ring() else {
                continue;
            };
            let mut printed = Vec::new();
            let mut tell = ring.take_output(&mut printed);
            let typed = console.typed.make_contiguous();
            if !typed.is_empty() {
                let count = ring.put_input(typed);
                console.typed.drain(..count);
                tell |= count > 0;
            }
            if tell {
                let _ = self.events.notify(console.port.port);
            }
            if printed.is_empty() {
                continue;
            }
            console.log.write(&printed);
            if let Some(pty) = &mut console.pty {
                pty.print(&printed);
            }
            console.kept.extend(&printed);
            let beyond = console.kept.len().saturating_sub(KEPT);
            console.kept.drain(..beyond);
            for client in &mut self.clients {
                if client.console == Some(*domain) {
                    client.send(printed.iter().copied());
                }
            }
        }
        Ok(())
    }

    /// Domains have come, gone or ended.
    fn look_at_domains(&mut self) -> Result<()> {
        self.looked = Instant::now();
        let domains = self.control.domains()?;
        let there = |id: u16| domains.iter().any(|info| info.id == id && !info.dying);
        let gone: Vec<u16> = self
            .consoles
            .keys()
            .copied()
            .filter(|&id| !there(id))
            .collect();
        if !gone.is_empty() {
            // The last words.
            self.serve()?;
        }
        for id in gone {
            if let Some(console) = self.consoles.remove(&id) {
                let _ = self.events.unbind(console.port.port);
            }
            for client in &mut self.clients {
                client.leaving |= client.console == Some(id);
            }
        }
        self.dealt_with.retain(|(id, _)| there(*id));
        for info in domains.iter().filter(|info| info.id != 0 && !info.dying) {
            if !self.consoles.contains_key(&info.id) {
                self.take_console(info.id);
            }
            if let Some(shutdown) = info.shutdown {
                self.ended(info, shutdown);
            }
        }
        Ok(())
    }

    /// Takes a console, unless another process has it or it is not there yet.
    fn take_console(&mut self, domain: u16) {
        let port = Port::open(&self.control, &mut self.store, &self.events, domain);
        if let Ok(port) = port {
            let name = self.store.domain_name(domain).ok().flatten();
            let name = name.unwrap_or_else(|| format!("domain-{domain}"));
            let console = Console {
                port,
                kept: VecDeque::new(),
                typed: VecDeque::new(),
                pty: None,
                log: Log::open(&name),
            };
            self.consoles.insert(domain, console);
            self.give_terminal(domain);
        }
    }

    /// Makes a terminal for a console, and says in the store where.
    fn give_terminal(&mut self, domain: u16) {
        let Some(console) = self.consoles.get_mut(&domain) else {
            return;
        };
        console.pty = Pty::open()
            .inspect_err(|error| {
                complain!("overcast: domain {domain}: no terminal for its console: {error}");
            })
            .ok();
        if let Some(pty) = &console.pty {
            let node = format!("/local/domain/{domain}/console/tty");
            let _ = self.store.write(&node, pty.name().as_bytes());
        }
    }

    /// A domain has ended, and is still there.
    fn ended(&mut self, info: &DomainInfo, shutdown: Shutdown) {
        let key = (info.id, info.uuid.clone());
        if self.dealt_with.contains(&key) {
            return;
        }
        let Some((config, age)) = remembered(&info.uuid) else {
            return;
        };
        self.dealt_with.push(key);
        let mut event = event_for(&config, shutdown);
        if event == Event::Restart && age < LEAST_LIFE {
            say!(
                "overcast: {} ended too soon to be started again",
                config.name
            );
            event = Event::Preserve;
        }
        say!("overcast: {} ended ({shutdown:?}): {event:?}", config.name);
        if event == Event::Preserve {
            return;
        }
        let (id, uuid) = (info.id, info.uuid.clone());
        // A kernel takes long to unpack, and consoles are to be served meanwhile.
        std::thread::spawn(move || {
            if let Err(error) = follow(id, &uuid, config, event) {
                complain!("overcast: domain {id}: {error}");
            }
        });
    }
}

/// Takes a domain apart, and makes it anew if it is to be.
fn follow(id: u16, uuid: &str, mut config: DomainConfig, event: Event) -> Result<()> {
    let control = Control::open()?;
    let mut store = Store::open()?;
    build::remove(&control, &mut store, id)?;
    if event != Event::Restart {
        forget(uuid);
        return Ok(());
    }
    config.uuid = Some(uuid.to_owned());
    // Its memory may still be on its way back.
    let begun = Instant::now();
    let (new, uuid) = loop {
        match create::make(&control, &mut store, &config, &mut |_, _, _| ()) {
            Err(Error::Memory { .. } | Error::Usage(_) | Error::Device { .. })
                if begun.elapsed() < 10 * LOOK =>
            {
                std::thread::sleep(LOOK);
            }
            other => break other?,
        }
    };
    remember(&uuid, &config)?;
    control.unpause(new)?;
    say!("overcast: {} is domain {new}", config.name);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_domain_is_left_alone() {
        let config = DomainConfig {
            on_poweroff: Event::Destroy,
            on_reboot: Event::Restart,
            on_crash: Event::Restart,
            ..serde_json::from_str(
                r#"{"name":"g","uuid":null,"kernel":"/k","initrd":null,"cmdline":"",
                "memory_kib":65536,"max_memory_kib":65536,"vcpus":1,"max_vcpus":1,"cpus":[],
                "weight":null,"cap":null,"disks":[],"vifs":[],"on_poweroff":"destroy",
                "on_reboot":"restart","on_crash":"destroy"}"#,
            )
            .expect("a configuration")
        };
        assert_eq!(event_for(&config, Shutdown::Suspend), Event::Preserve);
        assert_eq!(event_for(&config, Shutdown::Watchdog), Event::Restart);
        assert_eq!(event_for(&config, Shutdown::Poweroff), Event::Destroy);
    }

    #[test]
    fn a_client_that_does_not_read_is_let_go() {
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("set");
        let mut client = Client {
            stream: ours,
            request: Vec::new(),
            console: Some(1),
            pending: VecDeque::new(),
            leaving: false,
            gone: false,
        };
        for _ in 0..1000 {
            client.send([b'x'; 4096]);
            client.flush();
        }
        assert!(client.gone);
        assert!(client.pending.len() <= MAX_PENDING + 4096);
    }
}
