//! Backends in the hypervisor: their devices' nodes in xenstore, and the states of both
//! ends (public header io/xenbus.h).
//!
//! A kind of device ("vbd", "vif") is [`register`]ed once. A device of it is there when the
//! tools, or [`create_device`], have made its backend's directory
//! `/local/domain/32754/backend/<kind>/<frontend's domid>/<device number>`; then
//! [`Kind::create`] makes its backend, which the calls of [`Backend`] then tell what to do:
//!
//! | frontend's state | backend's state | what is done |
//! |---|---|---|
//! | (directory is there) | Initialising | [`Kind::create`], then to InitWait |
//! | Initialised, Connected | InitWait | [`Backend::connect`], then to Connected |
//! | Closing | any | [`Backend::disconnect`] if it was connected, then to Closing |
//! | Closed, or gone | any | [`Backend::disconnect`] if it was connected, then to Closed |
//! | Initialising | Closed | to InitWait: the frontend begins anew |
//! | Reconfiguring, Reconfigured | Connected | [`Backend::reconfigured`] |
//! | (directory is gone) | | [`Backend::disconnect`] if it was connected; dropped |
//!
//! A backend's node `state` that the tools set to Closing asks for the end: the frontend
//! sees it too, and closes; one that never connected is Closed at once. The directory of a
//! device that is Closed, and whose `online` the tools have set to 0, is removed once they
//! have seen that: libxl sets a watch on the directory itself then, and waits until it is gone.
//! Who sets none finds it gone [`LINGER`] later.
//!
//! A frontend whose driver is unbound goes to Closed. Linux's netfront writes Initialising when it
//! is bound again, and so is back; its blkfront keeps the state Closed that it had, and waits for
//! ever, here as on other backends: its nodes must be made anew, as Xen's tools do when a device
//! is detached and attached.
//!
//! # For backends
//!
//! ```text
//! struct Vbd { ... }                                   // one device
//! impl Backend for Vbd {
//!     fn connect(&mut self, device: &Device) -> Result<(), Failure> {
//!         let ring = device.frontend_number("ring-ref")?;
//!         let port = device.frontend_number("event-channel")?;
//!         ... map, bind, start ...
//!         device.write("sectors", "2048")
//!     }
//!     fn disconnect(&mut self, device: &Device) { ... stop, unbind, unmap ... }
//! }
//! impl Kind for VbdKind {
//!     fn name(&self) -> &'static str { "vbd" }
//!     fn create(&self, device: &Arc<Device>) -> Result<Box<dyn Backend>, Failure> {
//!         let disk = device.read_text("params")?;      // what create_device or xl wrote
//!         device.write("feature-flush-cache", "1")?;
//!         Ok(Box::new(Vbd { ... }))
//!     }
//! }
//! xenbus::register(Box::new(VbdKind));
//! ```
//!
//! All calls come from one task, one at a time, without locks held; a backend's work on
//! rings has tasks of its own. A [`Failure`] goes to the log and to the node
//! `error/backend/<kind>/<domid>/<device>/error`, as other backends' do, and the device
//! to Closing. From other tasks, [`Device::fail`] does the same and disconnects later.
//!
//! What a frontend wrote is text that means harm: [`Device::frontend_number`] and its
//! like bound it, and the rest is the backend's to check.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt::Display;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use overcast_core::error::{Error, Result as CoreResult};
use overcast_core::ids::DomainId;
use overcast_core::xenbus::{Action, backend_written, frontend_changed, is_over, may_write};
use overcast_core::xenstore::perms::{Access, Perms};
use spin::{Mutex, Once};
use xen_abi::io_xenbus::*;
use xen_abi::overcast::DeviceCounts;

use crate::arch::console::GUEST;
use crate::io::{self, Progress, Task};
use crate::time;
use crate::xenstore::{Client, View};

/// Events that are looked at in one run of the task.
const EVENTS_A_RUN: u32 = 32;
/// The longest text that is taken from a frontend.
const MAX_FRONTEND_TEXT: usize = 256;
/// How long a device that the tools have given up is still to be seen, Closed, at most, ns. They
/// wait ten seconds; if it is gone before they have looked, they complain.
const LINGER: u64 = 5_000_000_000;
/// How often it is looked whether they have, ns.
const LOOK: u64 = 20_000_000;
/// Token of the watch on backends' directories.
const BACKENDS: &str = "backend";

/// Why a device cannot work. The number is an errno.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The errno (positive).
    pub errno: i32,
    /// What was being done.
    pub message: String,
}

impl Failure {
    /// A failure.
    pub fn new(error: Error, message: impl Display) -> Self {
        Self {
            errno: error.errno(),
            message: message.to_string(),
        }
    }
}

/// A kind of device.
pub trait Kind: Send + Sync {
    /// As its directories are named: "vbd", "vif".
    fn name(&self) -> &'static str;

    /// A backend for a device whose directory is there: looks at what the tools wrote in
    /// it, and writes what the frontend needs before it connects.
    fn create(&self, device: &Arc<Device>) -> Result<Box<dyn Backend>, Failure>;
}

/// One device's backend.
pub trait Backend: Send {
    /// The frontend has written its keys: takes its rings, starts, and writes what it
    /// needs to be connected. On failure nothing is held.
    fn connect(&mut self, device: &Device) -> Result<(), Failure>;

    /// The opposite: stops, and gives up all that is the frontend's. What is under way at
    /// a device has to keep hold of the frames that it needs by itself.
    fn disconnect(&mut self, device: &Device);

    /// The frontend asks for, or is through with, a reconfiguration.
    fn reconfigured(&mut self, device: &Device) {
        let _ = device;
    }

    /// What it did, beside the names of the device; `None` if there is nothing to be told.
    fn counts(&self) -> Option<DeviceCounts>;

    /// A node of the backend's directory other than its state was changed, by anybody.
    fn changed(&mut self, device: &Device, key: &str) {
        let _ = (device, key);
    }
}

/// A device: its paths, and the keys of both ends.
pub struct Device {
    /// Its kind's name.
    pub kind: &'static str,
    /// The frontend's domain.
    pub domain: DomainId,
    /// Its number.
    pub id: u32,
    /// The backend's directory, absolute.
    pub backend_path: String,
    /// The frontend's directory, absolute.
    pub frontend_path: String,
    /// The backend's state, as this side set it.
    state: AtomicU32,
    /// Somebody found that it cannot go on.
    failed: AtomicBool,
    /// When it is to be removed at the latest, ns; 0 for never.
    remove_at: AtomicU64,
}

impl Device {
    /// As messages name it: "vbd/3/51712".
    pub fn name(&self) -> String {
        format!("{}/{}/{}", self.kind, self.domain, self.id)
    }

    /// The backend's state (`XENBUS_STATE_*`), as this side set it.
    pub fn state(&self) -> u32 {
        self.state.load(Ordering::Acquire)
    }

    /// A key of the backend's as text.
    pub fn read_text(&self, key: &str) -> Result<String, Failure> {
        let path = format!("{}/{key}", self.backend_path);
        store()
            .and_then(|store| store.read_text(&path))
            .map_err(|error| Failure::new(error, format_args!("reading {path}")))
    }

    /// A key of the backend's as a number.
    pub fn read_number(&self, key: &str) -> Result<u64, Failure> {
        let path = format!("{}/{key}", self.backend_path);
        store()
            .and_then(|store| store.read_number(&path))
            .map_err(|error| Failure::new(error, format_args!("reading {path}")))
    }

    /// Writes a key of the backend's.
    pub fn write(&self, key: &str, value: impl Display) -> Result<(), Failure> {
        let path = format!("{}/{key}", self.backend_path);
        store()
            .and_then(|store| store.write(&path, &value.to_string()))
            .map_err(|error| Failure::new(error, format_args!("writing {path}")))
    }

    /// A key of the frontend's as text; a failure if there is none or it is too long.
    pub fn frontend_text(&self, key: &str) -> Result<String, Failure> {
        let path = format!("{}/{key}", self.frontend_path);
        let text = store().and_then(|store| store.read_text(&path));
        match text {
            Ok(text) if text.len() <= MAX_FRONTEND_TEXT => Ok(text),
            Ok(_) => Err(Failure::new(
                Error::Invalid,
                format_args!("{path} is too long"),
            )),
            Err(error) => Err(Failure::new(error, format_args!("reading {path}"))),
        }
    }

    /// A key of the frontend's as a number; a failure if there is none.
    pub fn frontend_number(&self, key: &str) -> Result<u32, Failure> {
        self.frontend_text(key)
            .and_then(|text| self.frontend_parse(key, &text))
    }

    fn frontend_parse(&self, key: &str, text: &str) -> Result<u32, Failure> {
        text.trim().parse().map_err(|_| {
            let path = &self.frontend_path;
            Failure::new(Error::Invalid, format_args!("{path}/{key} is no number"))
        })
    }

    /// A key of the frontend's as a number, if there is one.
    pub fn frontend_number_or(&self, key: &str, default: u32) -> Result<u32, Failure> {
        match self.frontend_text(key) {
            Err(failure) if failure.errno == Error::NoEntry.errno() => Ok(default),
            Err(failure) => Err(failure),
            Ok(text) => self.frontend_parse(key, &text),
        }
    }

    /// The frontend's state; Unknown if there is none.
    pub fn frontend_state(&self) -> u32 {
        self.frontend_number("state")
            .unwrap_or(XENBUS_STATE_UNKNOWN)
    }

    /// Whether the tools want it to go on after its frontend closed.
    fn is_online(&self) -> bool {
        self.read_number("online").is_ok_and(|online| online != 0)
    }

    /// Sets the backend's state.
    pub fn set_state(&self, state: u32) {
        // Changed before it is written: who watches it finds it as it is.
        let own = self.state.swap(state, Ordering::AcqRel);
        if own == state {
            return;
        }
        let path = format!("{}/state", self.backend_path);
        let written = client().map(|client| {
            client.transaction(|store| match store.read_number(&path) {
                Ok(found) if !may_write(own, found as u32, state) => Ok(false),
                Err(Error::Invalid) | Ok(_) => {
                    store.write(&path, &state.to_string()).map(|()| true)
                }
                // A directory that the tools have removed is not made again.
                Err(_) => Ok(true),
            })
        });
        match written {
            Some(Ok(true)) | None => {}
            // Its event has the wish looked at.
            Some(Ok(false)) => self.state.store(own, Ordering::Release),
            Some(Err(error)) => {
                log::warn!("{}: its state cannot be written: {error:?}", self.name());
            }
        }
    }

    /// Has the backend's nodes removed in a while, if the tools have given the device up and it is
    /// closed.
    fn remove_soon_if_over(&self) {
        if is_over(
            self.read_number("state").ok(),
            self.read_number("online").ok(),
        ) {
            self.remove_at
                .store(time::now().saturating_add(LINGER), Ordering::Release);
            if let Some(bus) = BUS.get() {
                // It sets its timer.
                bus.task.raise();
            }
        }
    }

    /// Removes the backend's nodes if the tools have given the device up and it is closed. The
    /// event of that has the device forgotten.
    fn remove_if_over(&self) {
        let Some(client) = client() else { return };
        let own = &self.backend_path;
        let error = format!(
            "/local/domain/{}/error/backend/{}",
            DomainId::XEN,
            self.name()
        );
        let removed = client.transaction(|store| {
            let number = |key: &str| store.read_number(&format!("{own}/{key}")).ok();
            if !is_over(number("state"), number("online")) {
                return Ok(());
            }
            for path in [own.as_str(), error.as_str()] {
                match store.remove(path) {
                    Err(Error::NoEntry) => continue,
                    other => other?,
                }
                // A domain without devices has no directory.
                let above = path.rsplit_once('/').map_or("", |(above, _)| above);
                if store.directory(above).is_ok_and(|names| names.is_empty()) {
                    store.remove(above)?;
                }
            }
            Ok(())
        });
        if let Err(error) = removed {
            log::warn!("{own} cannot be removed: {error:?}");
        }
    }

    /// Says why the device cannot go on, and has it closed. In any task.
    pub fn fail(&self, failure: &Failure) {
        self.report(failure);
        self.failed.store(true, Ordering::Release);
        if let Some(bus) = BUS.get() {
            bus.task.raise();
        }
    }

    /// Says what went wrong, in the log and in the store.
    fn report(&self, failure: &Failure) {
        // A frontend can have this said as often as it likes: within the guests' limit.
        log::warn!(
            target: GUEST,
            "{}: {} (errno {})",
            self.name(),
            failure.message,
            failure.errno
        );
        let own = format!("backend/{}", self.name());
        let path = format!("/local/domain/{}/error/{own}/error", DomainId::XEN);
        let _ = store().and_then(|store| {
            store.write(&path, &format!("{} {}", failure.errno, failure.message))
        });
    }
}

/// A device and its backend.
struct Instance {
    device: Arc<Device>,
    kind: Arc<dyn Kind>,
    /// Locked by the bus's task, and by who asks for counts and holds nothing else. `None` as
    /// long as it cannot be made.
    backend: Mutex<Option<Box<dyn Backend>>>,
    connected: AtomicBool,
}

/// Devices by kind, domain and number.
type Devices = BTreeMap<(&'static str, DomainId, u32), Arc<Instance>>;

/// What there is.
struct Bus {
    task: Task,
    kinds: Mutex<Vec<Arc<dyn Kind>>>,
    devices: Mutex<Devices>,
    client: Once<Client>,
}

static BUS: Once<Arc<Bus>> = Once::new();

fn client() -> Option<&'static Client> {
    BUS.get()?.client.get()
}

fn store() -> CoreResult<&'static View> {
    client().map(|client| &**client).ok_or(Error::NotThere)
}

/// Sets the bus up, once the store is there.
pub fn init() {
    let made: CoreResult<Arc<Bus>> = (|| {
        let this: Arc<Once<Weak<Bus>>> = Arc::new(Once::new());
        let mine = this.clone();
        let task = Task::new(move || match mine.get().and_then(Weak::upgrade) {
            Some(bus) => bus.run(),
            None => Progress::Done,
        })?;
        let bus = Arc::new(Bus {
            client: Once::new(),
            kinds: Mutex::new(Vec::new()),
            devices: Mutex::new(BTreeMap::new()),
            task,
        });
        this.call_once(|| Arc::downgrade(&bus));
        Ok(bus)
    })();
    match made {
        Ok(bus) => {
            let client = Client::new(bus.task.id());
            let path = format!("/local/domain/{}/backend", DomainId::XEN);
            if let Err(error) = client
                .mkdir(&path)
                .and_then(|()| client.watch(&path, BACKENDS))
            {
                log::error!("xenbus: {path} cannot be watched: {error:?}");
            }
            bus.client.call_once(|| client);
            BUS.call_once(|| bus);
        }
        Err(error) => log::error!("xenbus: no task: {error:?}"),
    }
}

/// Makes a kind of devices known. Those that are there already get their backends soon.
pub fn register(kind: Box<dyn Kind>) {
    let Some(bus) = BUS.get() else {
        log::error!("xenbus: {} comes too early", kind.name());
        return;
    };
    let name = kind.name();
    bus.kinds.lock().push(Arc::from(kind));
    if let Some(client) = bus.client.get() {
        // Its first event has all directories looked at.
        let path = format!("/local/domain/{}/backend/{name}", DomainId::XEN);
        let _ = client.watch(&path, BACKENDS);
    }
}

/// Makes the nodes of a device: both directories, with the states Initialising, the
/// references to each other, and the permissions that the tools give such directories.
/// `backend` and `frontend` are further keys of each.
pub fn create_device(
    kind: &str,
    domain: DomainId,
    id: u32,
    backend: &[(&str, &str)],
    frontend: &[(&str, &str)],
) -> CoreResult<()> {
    let client = client().ok_or(Error::NotThere)?;
    let backend_path = backend_path(kind, domain, id);
    let frontend_path = format!("/local/domain/{domain}/device/{kind}/{id}");
    let readable =
        |owner: DomainId, reader: DomainId| Perms::owned_by(owner).with(reader, Access::READ);
    client.transaction(|store| {
        for (path, perms) in [
            (&backend_path, readable(DomainId::XEN, domain)),
            (&frontend_path, readable(domain, DomainId::XEN)),
        ] {
            store.remove(path).or_else(|error| match error {
                Error::NoEntry => Ok(()),
                error => Err(error),
            })?;
            store.mkdir(path)?;
            store.set_permissions(path, perms)?;
        }
        let write = |directory: &str, key: &str, value: &str| {
            store.write(&format!("{directory}/{key}"), value)
        };
        write(&frontend_path, "backend", &backend_path)?;
        write(&frontend_path, "backend-id", &DomainId::XEN.to_string())?;
        for (key, value) in frontend {
            write(&frontend_path, key, value)?;
        }
        write(&frontend_path, "state", "1")?;
        write(&backend_path, "frontend", &frontend_path)?;
        write(&backend_path, "frontend-id", &domain.to_string())?;
        write(&backend_path, "online", "1")?;
        for (key, value) in backend {
            write(&backend_path, key, value)?;
        }
        write(&backend_path, "state", "1")
    })
}

/// Takes away all devices of a domain: their nodes of both ends. `false` as long as a
/// backend still serves one of them.
pub fn remove_devices(domain: DomainId) -> bool {
    let (Some(bus), Some(client)) = (BUS.get(), client()) else {
        return true;
    };
    let devices = bus.devices.lock();
    let mine: Vec<_> = devices
        .values()
        .filter(|it| it.device.domain == domain)
        .map(|it| it.device.clone())
        .collect();
    drop(devices);
    for device in &mine {
        // The bus's task hears of it, disconnects, and forgets the device.
        for path in [&device.backend_path, &device.frontend_path] {
            if let Err(error) = client.remove(path)
                && error != Error::NoEntry
            {
                log::warn!("{path} cannot be removed: {error:?}");
            }
        }
    }
    mine.is_empty()
}

/// What the backends of all devices did.
pub fn counts() -> Vec<DeviceCounts> {
    let Some(bus) = BUS.get() else {
        return Vec::new();
    };
    let devices: Vec<_> = bus.devices.lock().values().cloned().collect();
    let of = |instance: &Arc<Instance>| {
        let counts = instance.backend.lock().as_ref()?.counts()?;
        Some(DeviceCounts {
            domain: instance.device.domain.0,
            device: instance.device.id,
            ..counts
        })
    };
    devices.iter().filter_map(of).collect()
}

fn backend_path(kind: &str, domain: DomainId, id: u32) -> String {
    let me = DomainId::XEN;
    format!("/local/domain/{me}/backend/{kind}/{domain}/{id}")
}

impl Bus {
    /// The task.
    fn run(&self) -> Progress {
        let Some(client) = self.client.get() else {
            return Progress::Done;
        };
        let failed: Vec<_> = {
            let devices = self.devices.lock();
            let all = devices.values();
            all.filter(|it| it.device.failed.swap(false, Ordering::AcqRel))
                .cloned()
                .collect()
        };
        for instance in failed {
            instance.act(Action::Closing);
        }
        self.remove_what_is_over(client);
        for _ in 0..EVENTS_A_RUN {
            let Some(event) = client.next_event() else {
                return Progress::Done;
            };
            let token = core::str::from_utf8(&event.token).unwrap_or_default();
            if token == BACKENDS {
                self.backend_changed(client, &event.path);
            } else if let Some(instance) = self.find(token) {
                instance.frontend_changed();
            }
        }
        Progress::More
    }

    /// Removes what was given up, and looks again soon if there is more.
    fn remove_what_is_over(&self, client: &Client) {
        let now = time::now();
        let given_up: Vec<_> = {
            let devices = self.devices.lock();
            let all = devices.values().map(|it| &it.device);
            all.filter(|device| device.remove_at.load(Ordering::Acquire) != 0)
                .cloned()
                .collect()
        };
        let mut next = u64::MAX;
        for device in given_up {
            let at = device.remove_at.load(Ordering::Acquire);
            let late = at <= now;
            if late || client.is_watched_by_tools(&device.backend_path) {
                if late {
                    log::info!("xenbus: {}: nobody waits for its end", device.name());
                }
                device.remove_at.store(0, Ordering::Release);
                device.remove_if_over();
            } else {
                next = next.min(at).min(now.saturating_add(LOOK));
            }
        }
        if next != u64::MAX {
            io::raise_at(self.task.id(), next);
        }
    }

    /// The device of a name as [`Device::name`] gives it.
    fn find(&self, name: &str) -> Option<Arc<Instance>> {
        let mut parts = name.split('/');
        let (kind, domain, id) = (parts.next()?, parts.next()?, parts.next()?);
        let (domain, id) = (DomainId(domain.parse().ok()?), id.parse().ok()?);
        let devices = self.devices.lock();
        let mut all = devices.values();
        all.find(|it| {
            let device = &it.device;
            device.kind == kind && device.domain == domain && device.id == id
        })
        .cloned()
    }

    /// Something changed among backends' directories.
    fn backend_changed(&self, client: &Client, path: &str) {
        let base = format!("/local/domain/{}/backend", DomainId::XEN);
        let rest = path.strip_prefix(&base).unwrap_or_default();
        let parts: Vec<&str> = rest.split('/').filter(|part| !part.is_empty()).collect();
        match parts.as_slice() {
            [kind, domain, id, key @ ..] => {
                if let (Ok(domain), Ok(id)) = (domain.parse(), id.parse()) {
                    self.device_changed(client, kind, DomainId(domain), id, key.first().copied());
                }
            }
            // A whole directory came or went.
            above => {
                let mut found: Vec<(String, String, String)> = Vec::new();
                let list = |path: &str| client.directory(path).unwrap_or_default();
                for kind in list(&base) {
                    if above.first().is_some_and(|wanted| *wanted != kind) {
                        continue;
                    }
                    for domain in list(&format!("{base}/{kind}")) {
                        for id in list(&format!("{base}/{kind}/{domain}")) {
                            found.push((kind.clone(), domain.clone(), id));
                        }
                    }
                }
                for device in self.devices.lock().values().map(|it| it.device.clone()) {
                    let (domain, id) = (device.domain.to_string(), device.id.to_string());
                    found.push((device.kind.to_string(), domain, id));
                }
                for (kind, domain, id) in found {
                    if let (Ok(domain), Ok(id)) = (domain.parse(), id.parse()) {
                        self.device_changed(client, &kind, DomainId(domain), id, None);
                    }
                }
            }
        }
    }

    fn device_changed(
        &self,
        client: &Client,
        kind: &str,
        domain: DomainId,
        id: u32,
        key: Option<&str>,
    ) {
        let path = backend_path(kind, domain, id);
        let there = client.exists(&format!("{path}/state"));
        let instance = self.find(&format!("{kind}/{domain}/{id}"));
        match (there, instance) {
            (true, None) => self.create(client, kind, domain, id),
            (true, Some(instance)) => instance.backend_changed(key),
            (false, Some(instance)) => self.remove(client, &instance),
            (false, None) => {}
        }
    }

    /// A device's directory is there: makes its backend.
    fn create(&self, client: &Client, kind: &str, domain: DomainId, id: u32) {
        let known = self
            .kinds
            .lock()
            .iter()
            .find(|known| known.name() == kind)
            .cloned();
        let Some(kind) = known else {
            return;
        };
        let backend_path = backend_path(kind.name(), domain, id);
        let Ok(frontend_path) = client.read_text(&format!("{backend_path}/frontend")) else {
            // The rest of its nodes is still to come.
            return;
        };
        let device = Arc::new(Device {
            kind: kind.name(),
            domain,
            id,
            backend_path,
            frontend_path,
            state: AtomicU32::new(XENBUS_STATE_INITIALISING),
            failed: AtomicBool::new(false),
            remove_at: AtomicU64::new(0),
        });
        let instance = Arc::new(Instance {
            device: device.clone(),
            kind,
            backend: Mutex::new(None),
            connected: AtomicBool::new(false),
        });
        let key = (device.kind, domain, id);
        self.devices.lock().insert(key, instance.clone());
        log::info!("xenbus: {} is there", device.name());
        instance.make_backend();
        let state = format!("{}/state", device.frontend_path);
        if let Err(error) = client.watch(&state, &device.name()) {
            device.fail(&Failure::new(error, "watching the frontend's state"));
        }
    }

    /// A device's directory is gone.
    fn remove(&self, client: &Client, instance: &Instance) {
        let device = &instance.device;
        instance.disconnect();
        let state = format!("{}/state", device.frontend_path);
        let _ = client.unwatch(&state, &device.name());
        let key = (device.kind, device.domain, device.id);
        self.devices.lock().remove(&key);
        log::info!("xenbus: {} is gone", device.name());
    }
}

impl Instance {
    fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Acquire)
    }

    /// Makes the backend, and waits for a frontend. What is missing may still come: it is
    /// tried again when a node of the directory changes.
    fn make_backend(&self) {
        match self.kind.create(&self.device) {
            Ok(backend) => {
                *self.backend.lock() = Some(backend);
                self.device.set_state(XENBUS_STATE_INIT_WAIT);
            }
            Err(failure) => self.device.report(&failure),
        }
    }

    fn disconnect(&self) {
        if self.connected.swap(false, Ordering::AcqRel)
            && let Some(backend) = &mut *self.backend.lock()
        {
            backend.disconnect(&self.device);
        }
    }

    fn act(&self, action: Action) {
        let device = &self.device;
        match action {
            Action::None => {}
            Action::Wait => device.set_state(XENBUS_STATE_INIT_WAIT),
            Action::Connect => {
                let result = match &mut *self.backend.lock() {
                    Some(backend) => backend.connect(device),
                    None => return,
                };
                match result {
                    Ok(()) => {
                        self.connected.store(true, Ordering::Release);
                        device.set_state(XENBUS_STATE_CONNECTED);
                    }
                    Err(failure) => {
                        device.report(&failure);
                        device.set_state(XENBUS_STATE_CLOSING);
                    }
                }
            }
            Action::Reconfigure => {
                if let Some(backend) = &mut *self.backend.lock() {
                    backend.reconfigured(device);
                }
            }
            Action::Closing => {
                self.disconnect();
                device.set_state(XENBUS_STATE_CLOSING);
            }
            Action::Closed => {
                self.disconnect();
                device.set_state(XENBUS_STATE_CLOSED);
                device.remove_soon_if_over();
            }
            Action::Restart => {
                self.disconnect();
                if self.backend.lock().is_none() {
                    self.make_backend();
                } else {
                    device.set_state(XENBUS_STATE_INIT_WAIT);
                }
                self.frontend_changed();
            }
        }
    }

    /// The frontend's state may have changed.
    fn frontend_changed(&self) {
        let device = &self.device;
        let (frontend, backend) = (device.frontend_state(), device.state());
        log::debug!(
            "xenbus: {}: frontend {frontend}, backend {backend}",
            device.name()
        );
        self.act(frontend_changed(frontend, backend, self.is_connected()));
    }

    /// A node of the backend's directory may have changed.
    fn backend_changed(&self, key: Option<&str>) {
        let device = &self.device;
        if let Some(key) = key.filter(|&key| key != "state" && key != "online") {
            if let Some(backend) = &mut *self.backend.lock() {
                return backend.changed(device, key);
            }
            self.make_backend();
            return self.frontend_changed();
        }
        let Ok(written) = device.read_number("state") else {
            return;
        };
        let written = written as u32;
        // One that failed is Closing already when the tools ask for it.
        if written != device.state() || written == XENBUS_STATE_CLOSING {
            device.state.store(written, Ordering::Release);
            let action = backend_written(written, self.is_connected(), device.is_online());
            self.act(action);
        }
        device.remove_soon_if_over();
    }
}
