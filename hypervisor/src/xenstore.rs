//! Xenstore's server on this machine: the rings of domains, and clients in the hypervisor.
//!
//! The logic is `overcast_core::xenstore`. Here is one store, behind one lock; a task
//! that serves the rings when a domain sends an event, a client made output, or a domain
//! shut down or went; and [`Client`], by which backends use the store.
//!
//! # For backends
//!
//! A [`Client`] belongs to a task. Its operations are plain calls, from any context that
//! may take locks. After [`View::watch`], the client's task is raised for each change and
//! fetches the events by [`Client::next_event`], without any lock of the store held. All
//! operations have the rights of the control domain. Relative paths are Dom0's.
//!
//! ```text
//! let client = Client::new(task.id());
//! client.watch("/local/domain/32754/backend/vbd", "vbd")?;   // an event comes at once
//! let mode = client.read_text(&format!("{path}/mode"))?;
//! client.transaction(|store| {                               // again if others were quicker
//!     store.write(&format!("{path}/sectors"), "2048")?;
//!     store.write(&format!("{path}/state"), "4")
//! })?;
//! while let Some(event) = client.next_event() { ... }        // in the task
//! ```
//!
//! # Locks
//!
//! The store's lock is outside all others; under it a domain's event channel, the list
//! of domains and the references of frames are used. So nothing that holds one of those
//! calls in here, except for [`domains_changed`], which takes no lock.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use overcast_core::addr::Mfn;
use overcast_core::error::{Error, Result};
use overcast_core::event::EventChannels;
use overcast_core::ids::{DomainId, EventPort};
use overcast_core::machine::{Frame, Memory};
use overcast_core::xenstore::perms::Perms;
use overcast_core::xenstore::watch::WatchEvent;
use overcast_core::xenstore::{ConnectionId, DomainState, Host as StoreHost, Quotas, Store};
use spin::{Mutex, Once};

use crate::arch::memory;
use crate::domain;
use crate::host::{Host, mm};
use crate::io::{self, Progress, Task, TaskId};

/// Requests that are done in one run of the task.
const BUDGET: u32 = 32;
/// With fewer free frames than this the store does not grow.
const LEAST_FREE_FRAMES: u64 = 256;
/// How often a transaction is tried.
const ATTEMPTS: u32 = 64;

/// How a domain is connected.
struct Link {
    /// Its page, to which a reference as writable is held.
    mfn: Mfn,
    /// The hypervisor's end of its event channel; `None` if it could not be bound.
    port: Option<EventPort>,
}

/// The machine, as the store sees it.
pub struct Machine {
    links: BTreeMap<DomainId, Link>,
}

impl StoreHost for Machine {
    fn domain_state(&self, id: DomainId) -> DomainState {
        match domain::find(id) {
            Some(domain) if domain.mm.is_dying() => DomainState::Gone,
            Some(domain) if domain.shutdown_reason().is_some() => DomainState::ShutDown,
            Some(_) => DomainState::Alive,
            None => DomainState::Gone,
        }
    }

    fn introduce(&mut self, id: DomainId, gfn: u64, port: u32) -> Result<()> {
        let domain = domain::find(id).ok_or(Error::NoEntry)?;
        if let Some(link) = self.links.get_mut(&id) {
            // Only the channel is bound anew.
            if let Some(old) = link.port.take() {
                io::close_port(old);
            }
            link.port = bind(&domain.events, port).ok();
            return Ok(());
        }
        let mfn = Mfn(gfn);
        mm().hold_writable(mfn, id)?;
        let port = bind(&domain.events, port).inspect_err(|_| mm().release_held(mfn))?;
        let port = Some(port);
        self.links.insert(id, Link { mfn, port });
        Ok(())
    }

    fn release(&mut self, id: DomainId) {
        if let Some(link) = self.links.remove(&id) {
            if let Some(port) = link.port {
                io::close_port(port);
            }
            mm().release_held(link.mfn);
        }
    }

    fn ring(&self, id: DomainId) -> Option<&Frame> {
        Host.frame(self.links.get(&id)?.mfn)
    }

    fn notify(&self, id: DomainId) {
        if let Some(port) = self.links.get(&id).and_then(|link| link.port) {
            io::notify(port);
        }
    }

    fn has_memory(&self) -> bool {
        memory::heap().free_frames() >= LEAST_FREE_FRAMES
    }
}

/// Binds a port of a domain's that waits for the hypervisor.
fn bind(events: &alloc::sync::Arc<EventChannels>, port: u32) -> Result<EventPort> {
    let task = TASK.get().ok_or(Error::NotThere)?;
    io::bind_port(events, EventPort(port), task.id())
}

static STORE: Once<Mutex<Store<Machine>>> = Once::new();
static TASK: Once<Task> = Once::new();
/// The tasks of clients. Inside the store's lock.
static CLIENTS: Mutex<BTreeMap<ConnectionId, TaskId>> = Mutex::new(BTreeMap::new());
/// A domain shut down or is gone.
static DOMAINS_CHANGED: AtomicBool = AtomicBool::new(false);

fn store() -> &'static Mutex<Store<Machine>> {
    STORE.call_once(|| {
        let machine = Machine {
            links: BTreeMap::new(),
        };
        let memory = memory::total_frames() << 12;
        let quotas = Quotas {
            privileged_memory: (memory / 32).clamp(4 << 20, 64 << 20),
            ..Quotas::default()
        };
        Mutex::new(Store::new(machine, quotas))
    })
}

/// Sets the server up.
pub fn init() {
    store();
    match Task::new(serve) {
        Ok(task) => {
            TASK.call_once(|| task);
        }
        Err(error) => log::error!("xenstore: no task: {error:?}"),
    }
}

/// Does something with the store, and then sees that all who are concerned hear of it.
fn with<R>(act: impl FnOnce(&mut Store<Machine>) -> R) -> R {
    let (result, output, woken) = {
        let mut store = store().lock();
        let result = act(&mut store);
        (result, store.take_ring_output(), store.take_woken())
    };
    if output && let Some(task) = TASK.get() {
        task.raise();
    }
    raise_clients(woken);
    result
}

fn raise_clients(woken: Vec<ConnectionId>) {
    for connection in woken {
        let task = CLIENTS.lock().get(&connection).copied();
        if let Some(task) = task {
            io::raise(task);
        }
    }
}

/// The task: serves the rings.
fn serve() -> Progress {
    let (more, woken) = {
        let mut store = store().lock();
        if DOMAINS_CHANGED.swap(false, Ordering::AcqRel) {
            store.check_domains();
        }
        (store.serve(BUDGET), store.take_woken())
    };
    raise_clients(woken);
    if more { Progress::More } else { Progress::Done }
}

/// To be called when a domain has shut down, is being destroyed, or is gone.
pub fn domains_changed() {
    DOMAINS_CHANGED.store(true, Ordering::Release);
    if let Some(task) = TASK.get() {
        task.raise();
    }
}

/// Connects Dom0: its ring's frame, and its port, which waits for the hypervisor. Makes
/// the nodes that Xen's tools make for it when they start.
pub fn connect_dom0(mfn: Mfn, port: EventPort) -> Result<()> {
    with(|store| {
        store.introduce(DomainId::DOM0, mfn.0, port.0)?;
        let client = store.add_client();
        let domid = alloc::format!("{}", DomainId::XEN);
        let result = [
            ("/tool/xenstored/domid", domid.as_str()),
            ("/local/domain/0/domid", "0"),
            ("/local/domain/0/name", "Domain-0"),
            ("/local/pool/0/name", "Pool-0"),
        ]
        .iter()
        .try_for_each(|(path, value)| store.write(client, 0, path, value));
        store.remove_connection(client);
        result
    })
}

/// Dom0 is dead: its connection goes, with its watches and transactions. Its nodes stay
/// for the next Dom0, whose tools find their domains in them.
pub fn disconnect_dom0() {
    with(|store| store.disconnect(DomainId::DOM0));
    // Who was held up by what Dom0 did not fetch is served again.
    if let Some(task) = TASK.get() {
        task.raise();
    }
}

/// The store as a client or one of its transactions sees it.
///
/// Errors are those of `overcast_core::xenstore::ops`; of these a client meets `NoEntry`
/// (no such node), `Invalid` (no path), and `NoMemory`, `NoSpace`, `Io` (too much).
#[derive(Debug)]
pub struct View {
    connection: ConnectionId,
    transaction: u32,
}

impl View {
    /// A node's value.
    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        with(|store| store.read(self.connection, self.transaction, path))
    }

    /// A node's value as text; `Invalid` if it is none.
    pub fn read_text(&self, path: &str) -> Result<String> {
        String::from_utf8(self.read(path)?).map_err(|_| Error::Invalid)
    }

    /// A node's value as a decimal number; `Invalid` if it is none.
    pub fn read_number(&self, path: &str) -> Result<u64> {
        self.read_text(path)?
            .trim()
            .parse()
            .map_err(|_| Error::Invalid)
    }

    /// Whether there is a node.
    pub fn exists(&self, path: &str) -> bool {
        self.read(path).is_ok()
    }

    /// The names of a node's children.
    pub fn directory(&self, path: &str) -> Result<Vec<String>> {
        with(|store| store.directory(self.connection, self.transaction, path))
    }

    /// Writes a node's value; makes the node if there is none.
    pub fn write(&self, path: &str, value: &str) -> Result<()> {
        with(|store| store.write(self.connection, self.transaction, path, value))
    }

    /// Makes a node if there is none.
    pub fn mkdir(&self, path: &str) -> Result<()> {
        with(|store| store.mkdir(self.connection, self.transaction, path))
    }

    /// Removes a node and all below it.
    pub fn remove(&self, path: &str) -> Result<()> {
        with(|store| store.remove(self.connection, self.transaction, path))
    }

    /// Sets a node's permissions.
    pub fn set_permissions(&self, path: &str, perms: Perms) -> Result<()> {
        with(|store| store.set_permissions(self.connection, self.transaction, path, perms))
    }
}

/// A connection of somebody in the hypervisor. Dropping it ends it.
#[derive(Debug)]
pub struct Client {
    view: View,
}

impl core::ops::Deref for Client {
    type Target = View;

    fn deref(&self) -> &View {
        &self.view
    }
}

impl Client {
    /// A client whose events raise a task.
    pub fn new(task: TaskId) -> Self {
        let connection = with(|store| {
            let connection = store.add_client();
            CLIENTS.lock().insert(connection, task);
            connection
        });
        Self {
            view: View {
                connection,
                transaction: 0,
            },
        }
    }

    /// Sets a watch. An event comes at once, and then one for each change of the path or of
    /// what is below it. `Exists` if it is set.
    pub fn watch(&self, path: &str, token: &str) -> Result<()> {
        with(|store| store.watch(self.view.connection, path, token))
    }

    /// Takes a watch back; events of it may still be there. `NoEntry` if there is none.
    pub fn unwatch(&self, path: &str, token: &str) -> Result<()> {
        with(|store| store.unwatch(self.view.connection, path, token))
    }

    /// Whether Dom0 has a watch on this very path.
    pub fn is_watched_by_tools(&self, path: &str) -> bool {
        with(|store| store.is_watched_by_tools(path))
    }

    /// The next event.
    pub fn next_event(&self) -> Option<WatchEvent> {
        with(|store| store.next_event(self.view.connection))
    }

    /// Does several things at one moment or not at all. If somebody else changed what was
    /// read, all is done again; so `act` may be called more than once. `Again` if that
    /// happens too often; otherwise what `act` gives, or the errors of the end.
    pub fn transaction<R>(&self, act: impl Fn(&View) -> Result<R>) -> Result<R> {
        let connection = self.view.connection;
        for _ in 0..ATTEMPTS {
            let transaction = with(|store| store.start_transaction(connection, 0))?;
            let result = act(&View {
                connection,
                transaction,
            });
            let end = with(|store| store.end_transaction(connection, transaction, result.is_ok()));
            match (result, end) {
                (Ok(_), Err(Error::Again)) => {}
                (Ok(value), Ok(())) => return Ok(value),
                (Ok(_), Err(error)) | (Err(error), _) => return Err(error),
            }
        }
        Err(Error::Again)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        with(|store| {
            store.remove_connection(self.view.connection);
            CLIENTS.lock().remove(&self.view.connection);
        });
    }
}
