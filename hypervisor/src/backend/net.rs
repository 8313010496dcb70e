//! Network devices of guests: what xenbus tells of them, and the tasks that serve them.
//!
//! The logic is `overcast_core::netback`. Here each of the first layer's NICs gets a switch
//! of its own, each of its pairs of queues and each queue of a vif a task. Dom0 has a
//! vif for each NIC, with the NIC's own address, as clouds let no other one pass.
//!
//! A vif's node `bridge` says which switch it is at: the NIC's name (`eth0`) or any name that ends
//! in its number (`xenbr0`, as Xen's tools write by default); the first one, if that says nothing.
//! The link of the NIC is shown in the node `carrier` (io/netif.h), of which
//! Linux's frontend knows nothing: it takes its link to be up.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use overcast_core::addr::Mfn;
use overcast_core::error::{Error, Result as CoreResult};
use overcast_core::event::ConsumerId;
use overcast_core::ids::{DomainId, EventPort, GrantRef};
use overcast_core::netback::{
    Fabric, Features, MAX_QUEUES, NetbackHost, QueueConfig, Rate, Uplink, Vif, VifConfig,
};
use overcast_core::switch::MacAddress;
use spin::{Mutex, Once};
use x86_64::instructions::random::RdRand;

use crate::arch::{cpu, memory, percpu};
use crate::devices::{self, NetEntry};
use crate::host::Host;
use crate::io::{self, Progress, Task, TaskId};
use crate::start::options;
use crate::xenbus::{self, Backend, Device, Failure, Kind};
use crate::{domain, printk, time};

/// With fewer free frames than this nothing waits for guests.
const LEAST_FREE_FRAMES: u64 = 1024;
/// The payload that frontends take a link to have.
const USUAL_MTU: u16 = 1500;

impl NetbackHost for Host {
    fn notify(&self, port: EventPort) {
        io::notify(port);
    }

    fn raise(&self, task: ConsumerId) {
        io::raise_consumer(task);
    }

    fn raise_at(&self, task: ConsumerId, deadline: u64) {
        if let Some(id) = TaskId::from_stored(task.0.wrapping_add(1)) {
            io::raise_at(id, deadline);
        }
    }

    fn now(&self) -> u64 {
        time::now()
    }

    fn allocate_frame(&self) -> Option<Mfn> {
        if memory::heap().free_frames() < LEAST_FREE_FRAMES {
            return None;
        }
        memory::alloc_frames(0, None).ok()
    }

    fn free_frame(&self, mfn: Mfn) {
        // No page table but the direct map ever had it since it was allocated.
        if let Err(error) = memory::heap().free(mfn, 0, 0) {
            log::error!("frame {mfn} of the network cannot be freed: {error:?}");
        }
    }
}

/// A switch, and the NIC at it.
struct Network {
    /// The NIC's name.
    name: String,
    fabric: Arc<Fabric<Host>>,
    /// Of the NIC's pairs of queues.
    _tasks: Vec<Task>,
}

static NETWORKS: Once<Vec<Network>> = Once::new();
/// All vifs' nodes, with the index of the network.
static DEVICES: Mutex<Vec<(usize, Weak<Device>)>> = Mutex::new(Vec::new());

fn networks() -> &'static [Network] {
    NETWORKS.get().map_or(&[], Vec::as_slice)
}

/// A number that guests cannot know.
fn secret() -> u64 {
    let random = RdRand::new().and_then(|source| source.get_u64());
    random
        .unwrap_or(0)
        .wrapping_add(cpu::rdtsc().wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Makes the networks, and has xenbus tell of vifs. Devices were found.
pub fn init() {
    let mut networks = Vec::new();
    for (index, entry) in devices::nets().iter().enumerate() {
        match attach(index, entry) {
            Ok(network) => networks.push(network),
            Err(error) => log::error!("{} is not used: {error:?}", entry.name),
        }
    }
    if networks.is_empty() {
        printk!("Network: no card; guests reach each other only");
        match Fabric::new(&Host, secret()) {
            Ok(fabric) => networks.push(Network {
                name: String::from("none"),
                fabric,
                _tasks: Vec::new(),
            }),
            Err(error) => log::error!("no virtual switch: {error:?}"),
        }
    }
    NETWORKS.call_once(|| networks);
    xenbus::register(Box::new(VifKind));
}

fn attach(index: usize, entry: &'static NetEntry) -> CoreResult<Network> {
    let fabric = Fabric::new(&Host, secret())?;
    let uplink = Uplink::new(&Host, entry.device.clone())?;
    fabric.set_uplink(uplink.clone())?;
    let mut tasks = Vec::new();
    for lane in 0..uplink.lanes() {
        let (served, joined) = (uplink.clone(), fabric.clone());
        let task = Task::new(move || {
            let run = served.run(lane, &joined);
            if let Some(up) = run.link {
                link_changed(index, entry, up);
            }
            if run.more {
                Progress::More
            } else {
                Progress::Done
            }
        })?;
        uplink.set_task(lane, task.id().consumer());
        entry.interrupts.set_task(lane, Some(task.id()))?;
        tasks.push(task);
    }
    Ok(Network {
        name: entry.name.clone(),
        fabric,
        _tasks: tasks,
    })
}

fn carrier(up: bool) -> &'static str {
    if up { "1" } else { "0" }
}

/// A NIC's link went up or down.
fn link_changed(network: usize, entry: &NetEntry, up: bool) {
    printk!("{}: link {}", entry.name, if up { "up" } else { "down" });
    let devices: Vec<_> = {
        let mut devices = DEVICES.lock();
        devices.retain(|(_, device)| device.strong_count() != 0);
        devices
            .iter()
            .filter(|(at, _)| *at == network)
            .filter_map(|(_, device)| device.upgrade())
            .collect()
    };
    for device in devices {
        let _ = device.write("carrier", carrier(up));
    }
}

/// Gives Dom0 a vif for each NIC, unless it is to have none. Before Dom0 runs.
pub fn give_dom0_devices() {
    let options = options();
    if !options.dom0_net || options.xenstore == Some(false) {
        return;
    }
    for (index, network) in networks().iter().enumerate() {
        let Some(uplink) = network.fabric.uplink() else {
            continue;
        };
        let info = uplink.info();
        let mac = format!("{}", MacAddress(info.mac));
        let handle = format!("{index}");
        let mtu = format!("{}", info.mtu);
        let common = [
            ("mac", mac.as_str()),
            ("handle", handle.as_str()),
            ("mtu", mtu.as_str()),
        ];
        // Without the node it is the usual one.
        let count = if info.mtu == USUAL_MTU { 2 } else { 3 };
        let keys = common.get(..count).unwrap_or_default();
        let mut backend = Vec::from(keys);
        backend.push(("bridge", network.name.as_str()));
        let made = xenbus::create_device("vif", DomainId::DOM0, index as u32, &backend, keys);
        match made {
            Ok(()) => printk!("Dom0: network device {index} at {} ({mac})", network.name),
            Err(error) => log::error!("Dom0: no network device {index}: {error:?}"),
        }
    }
}

/// The network that a name means: its index.
fn network_of(bridge: &str) -> usize {
    let networks = networks();
    if let Some(index) = networks.iter().position(|network| network.name == bridge) {
        return index;
    }
    let digits = bridge.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    bridge
        .get(digits..)
        .and_then(|number| number.parse().ok())
        .filter(|&number: &usize| number < networks.len())
        .unwrap_or(0)
}

/// The kind of device.
struct VifKind;

impl Kind for VifKind {
    fn name(&self) -> &'static str {
        "vif"
    }

    fn create(&self, device: &Arc<Device>) -> Result<Box<dyn Backend>, Failure> {
        let mac = device.read_text("mac")?;
        let mac = MacAddress::parse(mac.trim())
            .filter(|mac| mac.is_station())
            .ok_or_else(|| Failure::new(Error::Invalid, format_args!("address {mac:?}")))?;
        let bridge = device.read_text("bridge").unwrap_or_default();
        let index = network_of(bridge.trim());
        let network = networks()
            .get(index)
            .ok_or_else(|| Failure::new(Error::NotThere, "there is no network"))?;
        for feature in [
            "feature-sg",
            "feature-gso-tcpv4",
            "feature-gso-tcpv6",
            "feature-ipv6-csum-offload",
            "feature-rx-copy",
            "feature-multicast-control",
            "feature-split-event-channels",
        ] {
            device.write(feature, 1)?;
        }
        device.write("feature-rx-flip", 0)?;
        device.write("multi-queue-max-queues", max_queues())?;
        let link = network
            .fabric
            .uplink()
            .is_none_or(|uplink| uplink.info().link);
        device.write("carrier", carrier(link))?;
        // What Xen's tools wait for a script to write.
        device.write("hotplug-status", "connected")?;
        let mut devices = DEVICES.lock();
        devices.retain(|(_, device)| device.strong_count() != 0);
        devices.push((index, Arc::downgrade(device)));
        drop(devices);
        Ok(Box::new(VifBackend {
            device: device.clone(),
            mac,
            fabric: network.fabric.clone(),
            connected: None,
        }))
    }
}

fn max_queues() -> u32 {
    percpu::online_count().clamp(1, MAX_QUEUES)
}

/// What a connected device has.
struct Connected {
    vif: Arc<Vif<Host>>,
    // Closed before the tasks go that they raise.
    _ports: Ports,
    _tasks: Vec<Task>,
}

/// One device.
struct VifBackend {
    device: Arc<Device>,
    mac: MacAddress,
    fabric: Arc<Fabric<Host>>,
    connected: Option<Connected>,
}

/// Ports of ours. Dropping them closes them.
struct Ports(Vec<EventPort>);

impl Ports {
    fn bind(
        &mut self,
        domain: &domain::Domain,
        port: u32,
        task: TaskId,
    ) -> Result<EventPort, Failure> {
        let bound = io::bind_port(&domain.events, EventPort(port), task)
            .map_err(|error| Failure::new(error, format_args!("binding port {port}")))?;
        self.0.push(bound);
        Ok(bound)
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        self.0.iter().copied().for_each(io::close_port);
    }
}

/// Where a task finds its device, once it is there.
type Place = Arc<Once<Weak<Vif<Host>>>>;

/// The task of a queue.
fn queue_task(place: &Place, queue: u16) -> CoreResult<Task> {
    let place = place.clone();
    Task::new(move || match place.get().and_then(Weak::upgrade) {
        Some(vif) if vif.run(queue) => Progress::More,
        _ => Progress::Done,
    })
}

/// The task that tells xenbus of a device that misbehaved.
fn control_task(place: &Place, device: &Arc<Device>) -> CoreResult<Task> {
    let (place, device) = (place.clone(), device.clone());
    Task::new(move || {
        if let Some(vif) = place.get().and_then(Weak::upgrade)
            && let Some(how) = vif.misbehaviour()
        {
            device.fail(&Failure::new(Error::Invalid, how));
        }
        Progress::Done
    })
}

/// `rate`: bytes, and microseconds for them.
fn parse_rate(text: &str) -> Option<Rate> {
    let (bytes, microseconds) = text.trim().split_once(',')?;
    let interval: u64 = microseconds.parse().ok()?;
    Some(Rate {
        bytes: bytes.parse().ok()?,
        interval: interval.checked_mul(1000)?,
    })
}

impl VifBackend {
    /// Whether it may send from its own address only: unless the node `spoofchk` says 0, and
    /// not Dom0's, which may have bridges.
    fn spoofchk(&self, device: &Device) -> bool {
        match device.read_text("spoofchk") {
            Ok(text) => text.trim() != "0",
            Err(_) => device.domain != DomainId::DOM0,
        }
    }

    fn rate(&self, device: &Device) -> Option<Rate> {
        let text = device.read_text("rate").ok()?;
        let rate = parse_rate(&text);
        if rate.is_none() {
            log::warn!(
                "{}: rate {text:?} is not understood: no limit",
                device.name()
            );
        }
        rate
    }
}

impl Backend for VifBackend {
    fn connect(&mut self, device: &Device) -> Result<(), Failure> {
        let flag = |key: &str, default: u32| {
            device
                .frontend_number_or(key, default)
                .map(|value| value != 0)
        };
        if !flag("request-rx-copy", 0)? {
            let text = "the frontend wants pages flipped, which nobody does any more";
            return Err(Failure::new(Error::NotSupported, text));
        }
        let features = Features {
            scatter: flag("feature-sg", 0)?,
            tcp4: flag("feature-gso-tcpv4", 0)?,
            tcp6: flag("feature-gso-tcpv6", 0)?,
            checksum4: !flag("feature-no-csum-offload", 0)?,
            checksum6: flag("feature-ipv6-csum-offload", 0)?,
        };
        let multicast_control = flag("request-multicast-control", 0)?;
        let count = device.frontend_number_or("multi-queue-num-queues", 1)?;
        if count == 0 || count > max_queues() {
            let text = format_args!("{count} queues, of at most {}", max_queues()).to_string();
            return Err(Failure::new(Error::Invalid, text));
        }
        let domain = domain::find(device.domain)
            .ok_or_else(|| Failure::new(Error::NoDomain, "its domain is gone"))?;
        let no_task = |error| Failure::new(error, "no task");
        let place: Place = Arc::new(Once::new());
        let control = control_task(&place, &self.device).map_err(no_task)?;
        let mut tasks = Vec::new();
        let mut ports = Ports(Vec::new());
        let mut queues = Vec::new();
        for queue in 0..count {
            let key = |name: &str| match count {
                1 => String::from(name),
                _ => format!("queue-{queue}/{name}"),
            };
            let task = queue_task(&place, queue as u16).map_err(no_task)?;
            let id = task.id();
            tasks.push(task);
            let tx_ref = GrantRef(device.frontend_number(&key("tx-ring-ref"))?);
            let rx_ref = GrantRef(device.frontend_number(&key("rx-ring-ref"))?);
            let split = device.frontend_number(&key("event-channel-tx"));
            let (tx_port, rx_port) = match split {
                Ok(tx) => {
                    let rx = device.frontend_number(&key("event-channel-rx"))?;
                    (ports.bind(&domain, tx, id)?, ports.bind(&domain, rx, id)?)
                }
                Err(_) => {
                    let both = device.frontend_number(&key("event-channel"))?;
                    let both = ports.bind(&domain, both, id)?;
                    (both, both)
                }
            };
            queues.push(QueueConfig {
                tx_ref,
                rx_ref,
                tx_port,
                rx_port,
                task: id.consumer(),
            });
        }
        let vif = Vif::connect(
            &Host,
            &self.fabric,
            &VifConfig {
                domain: device.domain,
                device: device.id,
                mac: self.mac,
                grants: &domain.grants,
                features,
                multicast_control,
                spoofchk: self.spoofchk(device),
                rate: self.rate(device),
                queues: &queues,
                control: control.id().consumer(),
            },
        )
        .map_err(|error| Failure::new(error, "taking its rings"))?;
        place.call_once(|| Arc::downgrade(&vif));
        for queue in &queues {
            io::raise_consumer(queue.task);
        }
        tasks.push(control);
        log::info!(
            "{}: {} at {}, {count} queues, {features:?}",
            device.name(),
            self.mac,
            device.read_text("bridge").unwrap_or_default(),
        );
        self.connected = Some(Connected {
            vif,
            _ports: ports,
            _tasks: tasks,
        });
        Ok(())
    }

    fn disconnect(&mut self, device: &Device) {
        if let Some(connected) = self.connected.take() {
            connected.vif.close();
            log::debug!("{}: {:?}", device.name(), connected.vif.counters);
        }
    }

    fn changed(&mut self, device: &Device, key: &str) {
        let Some(connected) = &self.connected else {
            return;
        };
        match key {
            "rate" => connected.vif.set_rate(self.rate(device)),
            "spoofchk" => connected.vif.set_spoofchk(self.spoofchk(device)),
            _ => {}
        }
    }
}
