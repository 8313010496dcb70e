//! The first layer's devices: found at boot, named, and kept for the backends.
//!
//! Discovery runs once, on the boot CPU, before Dom0 is made. Afterwards the lists never change.
//!
//! # Interrupts
//!
//! A backend gives each queue of a device the task that serves it. Where the device has a
//! message for each queue, it raises that task directly, on a CPU that is the queue's; the
//! configuration's message raises a task of ours that reads what changed and then raises
//! those of all queues. Where there is one message for all, or none, our task raises them
//! all, by interrupt or every [`POLL_INTERVAL`].

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};

use overcast_core::addr::{MachineAddress, Mfn};
use overcast_core::error::{Error, Result};
use overcast_core::first_layer::FirstLayer;
use overcast_core::ids::CpuId;
use overcast_core::vdisk;
use overcast_drivers::block::Block;
use overcast_drivers::console::Console;
use overcast_drivers::entropy::Entropy;
use overcast_drivers::interrupt::Interrupting;
use overcast_drivers::net::Net;
use overcast_drivers::nvme::{self, NvmeBlock};
use overcast_drivers::pci::{self, ConfigAccess, Ecam, Function};
use overcast_drivers::platform::Platform;
use overcast_drivers::registers::Registers;
use overcast_drivers::virtio::block::VirtioBlock;
use overcast_drivers::virtio::console::VirtioConsole;
use overcast_drivers::virtio::entropy::VirtioEntropy;
use overcast_drivers::virtio::net::VirtioNet;
use overcast_drivers::virtio::{self, DeviceKind, VirtioError};
use spin::{Mutex, Once};

use crate::arch::{acpi, memory, percpu};
use crate::io::{self, Progress, Task, TaskId, Vector};
use crate::{printk, time};

/// How often a device without messages is looked at, ns.
const POLL_INTERVAL: u64 = 1_000_000;
/// In how many polls the configuration is looked at once.
const POLLS_A_LOOK: u32 = 1000;

/// The machine, for drivers.
struct Machine;

static MACHINE: Machine = Machine;

/// The order of the block that holds so many pages.
fn order_of(pages: usize) -> u32 {
    pages.max(1).next_power_of_two().trailing_zeros()
}

// SAFETY: frames from the heap are RAM of ours, in a row, which the direct map shows for
// ever; `ioremap` maps uncached and for ever.
unsafe impl Platform for Machine {
    fn allocate(&self, pages: usize) -> Option<(u64, NonNull<u8>)> {
        let order = order_of(pages);
        let mfn = memory::alloc_frames(order, None).ok()?;
        memory::zero_frames(mfn, order);
        let base = memory::direct_map(mfn.address());
        Some((mfn.address().0, NonNull::new(base)?))
    }

    unsafe fn free(&self, address: u64, pages: usize) {
        let mfn: Mfn = MachineAddress(address).frame();
        memory::free_frames(mfn, order_of(pages));
    }

    fn map(&self, address: u64, length: u64) -> Option<NonNull<u8>> {
        memory::ioremap(address, length, false).ok()
    }

    fn wait(&self, microseconds: u32) {
        crate::arch::time::delay_ns(u64::from(microseconds) * 1000);
    }

    fn cpus(&self) -> usize {
        percpu::online_count() as usize
    }
}

/// What raises the tasks of a device's queues.
struct Wiring {
    source: Arc<dyn Interrupting>,
    /// For each queue the number of its task plus one; 0 for none.
    tasks: Vec<AtomicU32>,
    /// Number of our own task plus one.
    service: AtomicU32,
    polls: AtomicU32,
    vectors: Mutex<Vectors>,
}

#[derive(Default)]
struct Vectors {
    /// Of the configuration, or of all.
    service: Option<Vector>,
    queues: Vec<Option<Vector>>,
}

impl Wiring {
    /// Whether there is a message for each queue.
    fn is_direct(&self) -> bool {
        self.source.messages() > 1
    }

    fn raise_all(&self) {
        for task in &self.tasks {
            if let Some(id) = TaskId::from_stored(task.load(Ordering::Acquire)) {
                io::raise(id);
            }
        }
    }

    /// What our own task does.
    fn serve(&self) -> Progress {
        if self.source.messages() > 0 {
            self.source.acknowledge();
            self.raise_all();
        } else {
            let polls = self.polls.fetch_add(1, Ordering::Relaxed);
            if polls.is_multiple_of(POLLS_A_LOOK) {
                self.source.acknowledge();
            }
            self.raise_all();
            if let Some(id) = TaskId::from_stored(self.service.load(Ordering::Acquire)) {
                io::raise_at(id, time::now().saturating_add(POLL_INTERVAL));
            }
        }
        Progress::Done
    }
}

/// The interrupts of a device.
pub struct Interrupts {
    wiring: Arc<Wiring>,
    /// Our own task; it lives as long as the device.
    service: Task,
}

impl Interrupts {
    fn new(source: Arc<dyn Interrupting>, queues: usize) -> Result<Self> {
        let wiring = Arc::new(Wiring {
            source,
            tasks: (0..queues).map(|_| AtomicU32::new(0)).collect(),
            service: AtomicU32::new(0),
            polls: AtomicU32::new(0),
            vectors: Mutex::new(Vectors {
                service: None,
                queues: (0..queues).map(|_| None).collect(),
            }),
        });
        let served = wiring.clone();
        let service = Task::new(move || served.serve())?;
        wiring
            .service
            .store(service.id().stored(), Ordering::Release);
        let messages = wiring.source.messages();
        if messages > 0 {
            let vector = Vector::new(service.id(), io::next_cpu())?;
            let index = wiring.source.config_message();
            wiring.source.set_message(index, Some(vector.message()?));
            wiring.vectors.lock().service = Some(vector);
        }
        Ok(Self { wiring, service })
    }

    /// Gives a queue the task that serves it, or takes it away. Interrupts raise the task on
    /// one CPU that stays the same: queue numbers go round the CPUs.
    ///
    /// # Errors
    /// `Invalid` without such a queue; `NoSpace`, `NoDevice` if there is no interrupt for it.
    pub fn set_task(&self, queue: usize, task: Option<TaskId>) -> Result<()> {
        let wiring = &*self.wiring;
        let slot = wiring.tasks.get(queue).ok_or(Error::Invalid)?;
        let mut vectors = wiring.vectors.lock();
        if wiring.is_direct() {
            let index = wiring.source.queue_message(queue);
            wiring.source.set_message(index, None);
            let place = vectors.queues.get_mut(queue).ok_or(Error::Invalid)?;
            *place = None;
            if let Some(task) = task {
                let cpu = CpuId(queue as u32 % percpu::online_count().max(1));
                let vector = Vector::new(task, cpu)?;
                wiring.source.set_message(index, Some(vector.message()?));
                *place = Some(vector);
            }
        }
        slot.store(task.map_or(0, TaskId::stored), Ordering::Release);
        drop(vectors);
        match task {
            // What came before may have been missed.
            Some(task) => io::raise(task),
            None => return Ok(()),
        }
        if wiring.source.messages() == 0 {
            self.service.raise();
        }
        Ok(())
    }
}

/// A disk of the first layer.
pub struct BlockEntry {
    /// `vda`, `vdb`, … in the order in which they were found.
    pub name: String,
    /// The disk.
    pub device: Arc<dyn Block>,
    /// What raises the tasks of its queues.
    pub interrupts: Interrupts,
}

/// A network card of the first layer.
pub struct NetEntry {
    /// `eth0`, `eth1`, … in the order in which they were found.
    pub name: String,
    /// The card.
    pub device: Arc<dyn Net>,
    /// What raises the tasks of its pairs of queues.
    pub interrupts: Interrupts,
}

/// A console of the first layer, other than a serial line.
pub struct ConsoleEntry {
    /// The console.
    pub device: Arc<dyn Console>,
    /// What raises the task that reads it: that of queue 0.
    pub interrupts: Interrupts,
}

#[derive(Default)]
struct Registry {
    blocks: Vec<BlockEntry>,
    nets: Vec<NetEntry>,
    consoles: Vec<ConsoleEntry>,
    entropy: Vec<Arc<dyn Entropy>>,
}

static FIRST_LAYER: Once<FirstLayer> = Once::new();
static REGISTRY: Once<Registry> = Once::new();

/// The disks.
pub fn blocks() -> &'static [BlockEntry] {
    REGISTRY.get().map_or(&[], |registry| &registry.blocks)
}

/// The network cards.
pub fn nets() -> &'static [NetEntry] {
    REGISTRY.get().map_or(&[], |registry| &registry.nets)
}

/// The consoles.
pub fn consoles() -> &'static [ConsoleEntry] {
    REGISTRY.get().map_or(&[], |registry| &registry.consoles)
}

/// Random numbers from the first layer, as many as there are now; gives how many bytes.
pub fn entropy(out: &mut [u8]) -> usize {
    let sources = REGISTRY.get().map_or(&[][..], |registry| &registry.entropy);
    let mut filled = 0;
    for source in sources {
        let rest = out.get_mut(filled..).unwrap_or_default();
        filled += source.fill(rest).min(rest.len());
    }
    filled
}

/// What Overcast runs on.
pub fn first_layer() -> &'static FirstLayer {
    FIRST_LAYER.call_once(|| {
        FirstLayer::detect(|leaf, subleaf| {
            let result = core::arch::x86_64::__cpuid_count(leaf, subleaf);
            [result.eax, result.ebx, result.ecx, result.edx]
        })
    })
}

/// Finds the devices. Needs all CPUs.
pub fn init() {
    printk!("First layer: {}", first_layer());
    REGISTRY.call_once(|| {
        let mut registry = Registry::default();
        for function in functions() {
            registry.take(&function);
        }
        registry
    });
}

/// All functions on PCI.
fn functions() -> Vec<Function> {
    let regions = acpi::info().map_or(&[][..], |info| &info.mcfg);
    // SAFETY: the firmware's tables say that configuration space is there.
    let ecam = unsafe { Ecam::new(&MACHINE, regions) };
    if let Some(ecam) = ecam {
        let roots: Vec<_> = ecam.roots().collect();
        let config: Arc<dyn ConfigAccess> = Arc::new(ecam);
        let found = pci::scan(&config, roots);
        printk!("PCI: {} functions, by memory (ECAM)", found.len());
        return found;
    }
    // SAFETY: the ports of PCI's configuration; nothing else uses them while the machine works.
    let registers = unsafe { Registers::ports(0xcf8, 8) };
    match pci::Ports::new(registers) {
        Some(ports) => {
            let config: Arc<dyn ConfigAccess> = Arc::new(ports);
            let found = pci::scan(&config, [(0, 0)]);
            printk!("PCI: {} functions, by ports", found.len());
            found
        }
        None => {
            printk!("PCI: none");
            Vec::new()
        }
    }
}

impl Registry {
    fn take(&mut self, function: &Function) {
        let taken = match virtio::kind_of(function) {
            Some(
                kind @ (DeviceKind::Block
                | DeviceKind::Net
                | DeviceKind::Console
                | DeviceKind::Entropy),
            ) => self.take_virtio(function, kind),
            None if function.class == nvme::CLASS => self.take_nvme(function),
            _ => {
                log::info!("PCI {function}: no driver");
                return;
            }
        };
        if let Err(reason) = taken {
            log::error!("PCI {function}: not used: {reason}");
            function.stop();
        }
    }

    fn take_virtio(
        &mut self,
        function: &Function,
        kind: DeviceKind,
    ) -> core::result::Result<(), String> {
        let virtio_error = |error: VirtioError| format!("{error}");
        let error = |error: Error| format!("{error:?}");
        // SAFETY: each function is taken once, by this driver.
        let transport = unsafe { virtio::open(function, &MACHINE) }.map_err(virtio_error)?;
        let place = format!("{}, PCI {}", transport.describe(), function.address);
        match kind {
            DeviceKind::Block => {
                let device = VirtioBlock::new(transport, &MACHINE).map_err(virtio_error)?;
                let device = Arc::new(device);
                self.add_block(device.clone(), device, &place)
                    .map_err(error)
            }
            DeviceKind::Net => {
                let device = VirtioNet::new(transport, &MACHINE).map_err(virtio_error)?;
                let device = Arc::new(device);
                self.add_net(device.clone(), device, &place).map_err(error)
            }
            DeviceKind::Console => {
                let device = VirtioConsole::new(transport, &MACHINE).map_err(virtio_error)?;
                let device = Arc::new(device);
                let interrupts = Interrupts::new(device.clone(), 1).map_err(error)?;
                printk!("console {} ({place})", self.consoles.len());
                self.consoles.push(ConsoleEntry { device, interrupts });
                Ok(())
            }
            DeviceKind::Entropy => {
                let device = VirtioEntropy::new(transport, &MACHINE).map_err(virtio_error)?;
                printk!("entropy source {} ({place})", self.entropy.len());
                self.entropy.push(Arc::new(device));
                Ok(())
            }
            DeviceKind::Other(_) => Ok(()),
        }
    }

    fn take_nvme(&mut self, function: &Function) -> core::result::Result<(), String> {
        // SAFETY: each function is taken once, by this driver.
        let device = unsafe { NvmeBlock::open(function, &MACHINE) };
        let device = Arc::new(device.map_err(|error| format!("{error}"))?);
        let place = format!("{}, PCI {}", device.describe(), function.address);
        self.add_block(device.clone(), device, &place)
            .map_err(|error| format!("{error:?}"))
    }

    fn add_net(
        &mut self,
        device: Arc<dyn Net>,
        source: Arc<dyn Interrupting>,
        place: &str,
    ) -> Result<()> {
        let name = format!("eth{}", self.nets.len());
        let interrupts = Interrupts::new(source, device.queues())?;
        let info = device.info();
        let [a, b, c, d, e, f] = info.mac;
        printk!(
            "{name}: {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}, MTU {}, {} queues{}{}{}, \
             {} segments, link {} ({place})",
            info.mtu,
            device.queues(),
            if info.transmit_checksum {
                ", checksum"
            } else {
                ""
            },
            if info.transmit_tcp4 { ", TSO4" } else { "" },
            if info.transmit_tcp6 { ", TSO6" } else { "" },
            info.max_segments,
            if info.link { "up" } else { "down" },
        );
        self.nets.push(NetEntry {
            name,
            device,
            interrupts,
        });
        Ok(())
    }

    fn add_block(
        &mut self,
        device: Arc<dyn Block>,
        source: Arc<dyn Interrupting>,
        place: &str,
    ) -> Result<()> {
        let name = vdisk::disk_name("vd", self.blocks.len());
        let interrupts = Interrupts::new(source, device.queues())?;
        let info = device.info();
        printk!(
            "{name}: {} MiB, {} queues, blocks of {}{}{}{}{}, {} segments, serial \"{}\" ({place})",
            info.sectors >> 11,
            device.queues(),
            info.logical_block_size,
            if info.read_only { ", read-only" } else { "" },
            if info.flush { ", flush" } else { "" },
            if info.discard.is_some() {
                ", discard"
            } else {
                ""
            },
            if info.write_zeroes.is_some() {
                ", write-zeroes"
            } else {
                ""
            },
            info.max_segments,
            Serial(&info.serial),
        );
        self.blocks.push(BlockEntry {
            name,
            device,
            interrupts,
        });
        Ok(())
    }
}

/// What may be printed of a serial number.
struct Serial<'a>(&'a [u8]);

impl core::fmt::Display for Serial<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for &byte in self.0.iter().take_while(|&&byte| byte != 0) {
            let shown = if byte.is_ascii_graphic() || byte == b' ' {
                byte
            } else {
                b'?'
            };
            write!(f, "{}", char::from(shown))?;
        }
        Ok(())
    }
}
