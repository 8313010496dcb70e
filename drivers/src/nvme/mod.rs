//! NVMe disks (NVM Express Base Specification 1.4), as EC2's Nitro and others give them: the
//! first namespace of a controller.
//!
//! Data goes straight from and to the segments of a request, by lists of pages (PRPs, 4.3). These
//! cannot describe what begins or ends within a page in the middle: such a request becomes
//! several commands, and is completed when all of them are.
//!
//! # The device is not trusted
//!
//! As virtio's: a controller that completes a command that it does not have, or says itself
//! that it failed, is *broken* for good. It is disabled, and when it says that it is, what it
//! had comes back as failed.
//!
//! A change of a namespace's size is not noticed.

mod admin;
mod prp;
mod queue;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use spin::Mutex;

use crate::Segment;
use crate::block::{
    Block, BlockInfo, BlockOperation, BlockRequest, BlockStatus, Completion, SECTOR_SIZE,
    SubmitError,
};
use crate::interrupt::{Interrupting, Message};
use crate::pci::{Bar, Function, Messages};
use crate::platform::{Dma, PAGE_SIZE, Platform};
use crate::registers::Registers;
use admin::Admin;
use queue::{Command, Finished, Pair};

/// Mass storage, non-volatile memory, NVMe.
pub const CLASS: u32 = 0x01_08_02;

/// Registers of the controller (3.1).
mod register {
    pub const CAPABILITIES: u64 = 0x00;
    pub const VERSION: u64 = 0x08;
    pub const CONFIGURATION: u64 = 0x14;
    pub const STATUS: u64 = 0x1c;
    pub const ADMIN_SIZES: u64 = 0x24;
    pub const ADMIN_SUBMISSION: u64 = 0x28;
    pub const ADMIN_COMPLETION: u64 = 0x30;
    pub const DOORBELLS: u64 = 0x1000;
}

/// CC: entries of 64 and 16 bytes, pages of 4096, and that it works (3.1.5).
const ENABLE: u32 = 4 << 20 | 6 << 16 | 1;
/// CSTS (3.1.6).
const READY: u32 = 1;
const FATAL: u32 = 1 << 1;
/// What nobody answers reads as.
const GONE: u32 = u32::MAX;

/// Commands (5, 6).
mod opcode {
    pub const CREATE_SUBMISSION: u8 = 0x01;
    pub const CREATE_COMPLETION: u8 = 0x05;
    pub const IDENTIFY: u8 = 0x06;
    pub const SET_FEATURES: u8 = 0x09;
    pub const FLUSH: u8 = 0x00;
    pub const WRITE: u8 = 0x01;
    pub const READ: u8 = 0x02;
    pub const WRITE_ZEROES: u8 = 0x08;
    pub const DATASET_MANAGEMENT: u8 = 0x09;
}
const NUMBER_OF_QUEUES: u32 = 7;

/// Entries of a queue: one stays empty.
const ENTRIES: u16 = 256;
const ADMIN_ENTRIES: u16 = 16;
/// The most bytes of a request, and of a command.
const MAX_TRANSFER: u32 = 1 << 20;
/// The most segments: in the worst case each is a command.
const MAX_SEGMENTS: usize = 128;
/// Bytes of a command's list of pages: those of [`MAX_TRANSFER`] but the first.
const LIST_BYTES: usize = MAX_TRANSFER as usize / PAGE_SIZE * 8;
/// Completions that are handed over at a time.
const BATCH: usize = 32;
/// How long a command of the administrator's may take, in steps of 100 µs.
const PATIENCE: u32 = if cfg!(test) { 100 } else { 100_000 };

/// Why a controller cannot be driven.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NvmeError {
    /// Its registers are not where they should be.
    NoRegisters,
    /// It does not become ready, or not idle.
    Reset,
    /// It does not know pages of 4096 bytes, or the NVM command set.
    Unsupported,
    /// A command of the administrator's failed with this status (4.6.1), or with none in time.
    Command(u8, Option<u16>),
    /// There is no memory for its queues.
    NoMemory,
    /// It has no namespace, or one of a form that is not supported.
    NoNamespace,
}

impl fmt::Display for NvmeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRegisters => f.write_str("its registers are not where they should be"),
            Self::Reset => f.write_str("it does not come out of reset"),
            Self::Unsupported => f.write_str("it lacks 4096-byte pages or the NVM command set"),
            Self::Command(opcode, Some(status)) => {
                write!(f, "command {opcode:#x} failed with status {status:#x}")
            }
            Self::Command(opcode, None) => write!(f, "command {opcode:#x} is not answered"),
            Self::NoMemory => f.write_str("there is no memory for its queues"),
            Self::NoNamespace => f.write_str("it has no namespace that can be used"),
        }
    }
}

/// A request at the controller.
#[derive(Clone, Copy)]
struct Request {
    tag: u64,
    /// Commands of it at the controller; 0 if this place is free.
    left: u16,
    status: BlockStatus,
}

/// A queue for input and output.
struct IoQueue {
    state: Mutex<IoState>,
    /// A list of pages for each command.
    lists: Dma,
}

struct IoState {
    pair: Pair,
    /// By a command's identifier: the request's place, while it is at the controller.
    commands: Vec<Option<u16>>,
    free_commands: Vec<u16>,
    requests: Vec<Request>,
    free_requests: Vec<u16>,
}

/// The controller's registers, and what became of it.
struct Controller {
    registers: Registers,
    messages: Messages,
    /// How many of these are used.
    used_messages: usize,
    changed: AtomicBool,
    broken: AtomicBool,
}

impl Controller {
    fn status(&self) -> u32 {
        self.registers.read32(register::STATUS)
    }

    /// It is broken: has it let go of all memory.
    fn fail(&self) {
        if !self.broken.swap(true, Ordering::AcqRel) {
            self.registers.write32(register::CONFIGURATION, 0);
            self.changed.store(true, Ordering::Release);
        }
    }

    fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Whether it is broken and touches no memory any more.
    fn is_stopped(&self) -> bool {
        let status = self.status();
        self.is_broken() && (status & READY == 0 || status == GONE)
    }

    fn wait_ready(&self, platform: &dyn Platform, ready: bool) -> Result<(), NvmeError> {
        let wanted = if ready { READY } else { 0 };
        for _ in 0..PATIENCE {
            let status = self.status();
            if status == GONE || status & FATAL != 0 && ready {
                break;
            }
            if status & READY == wanted {
                return Ok(());
            }
            platform.wait(100);
        }
        Err(NvmeError::Reset)
    }

    /// The message of a queue: with one for each, 0 is the administrator's.
    fn queue_message(&self, queue: usize) -> usize {
        if self.used_messages > 1 { queue + 1 } else { 0 }
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.registers.write32(register::CONFIGURATION, 0);
        // It may write memory until it says that it does not.
        for _ in 0..PATIENCE {
            let status = self.status();
            if status & READY == 0 || status == GONE {
                break;
            }
            core::hint::spin_loop();
        }
    }
}

/// An NVMe disk.
pub struct NvmeBlock {
    // Dropped before the queues: it disables the controller.
    controller: Controller,
    queues: Vec<IoQueue>,
    _admin: Pair,
    namespace: u32,
    info: BlockInfo,
    version: u32,
}

impl NvmeBlock {
    /// Takes a controller over and lets it work.
    ///
    /// # Safety
    /// The caller drives this device, alone.
    pub unsafe fn open(
        function: &Function,
        platform: &'static dyn Platform,
    ) -> Result<Self, NvmeError> {
        function.enable();
        let length = match function.bar(0) {
            // Doorbells of the queues that are made lie in the first pages.
            Some(Bar::Memory { size, .. }) => size.min(0x1_0000),
            _ => return Err(NvmeError::NoRegisters),
        };
        // SAFETY: the caller's promise, here and below.
        let registers = unsafe { function.registers(platform, 0, 0, length) };
        let registers = registers.ok_or(NvmeError::NoRegisters)?;
        // SAFETY: as above.
        let messages = unsafe { Messages::enable(function, platform) };
        Self::new(registers, messages, platform)
    }

    fn new(
        registers: Registers,
        messages: Messages,
        platform: &'static dyn Platform,
    ) -> Result<Self, NvmeError> {
        let capabilities = [0, 4].map(|at| registers.read32(register::CAPABILITIES + at));
        let [low, high] = capabilities;
        let most_entries = (low & 0xffff).saturating_add(1).min(ENTRIES.into()) as u16;
        let stride = 4u64 << (high & 15);
        if high >> 5 & 1 == 0 || high >> 16 & 15 != 0 || most_entries < 2 || low == GONE {
            return Err(NvmeError::Unsupported);
        }
        let mut controller = Controller {
            registers: registers.clone(),
            messages,
            used_messages: 0,
            changed: AtomicBool::new(false),
            broken: AtomicBool::new(false),
        };
        registers.write32(register::CONFIGURATION, 0);
        controller.wait_ready(platform, false)?;
        let pair = |id: u16, entries: u16| {
            let doorbell = register::DOORBELLS + u64::from(id) * 2 * stride;
            Pair::new(platform, registers.clone(), doorbell, stride, entries)
        };
        let mut admin = Admin {
            pair: pair(0, ADMIN_ENTRIES.min(most_entries)).ok_or(NvmeError::NoMemory)?,
            answer: Dma::new(platform, PAGE_SIZE).ok_or(NvmeError::NoMemory)?,
            platform,
        };
        let size = u32::from(admin.pair.entries()) - 1;
        registers.write32(register::ADMIN_SIZES, size << 16 | size);
        let [submission, completion] = admin.pair.addresses();
        registers.write64(register::ADMIN_SUBMISSION, submission);
        registers.write64(register::ADMIN_COMPLETION, completion);
        registers.write32(register::CONFIGURATION, ENABLE);
        let mut queues = Vec::new();
        let set_up = Self::set_up(
            &mut controller,
            &mut admin,
            &mut queues,
            &|id| pair(id, most_entries),
            platform,
        );
        match set_up {
            Ok((namespace, info)) => Ok(Self {
                version: registers.read32(register::VERSION),
                controller,
                queues,
                _admin: admin.pair,
                namespace,
                info,
            }),
            Err(error) => {
                // Disabled before the memory goes that it knows.
                drop(controller);
                Err(error)
            }
        }
    }

    /// The rest of the setting up, by commands of the administrator's. Of the queues made the
    /// controller may know, whatever this gives.
    fn set_up(
        controller: &mut Controller,
        admin: &mut Admin<'_>,
        queues: &mut Vec<IoQueue>,
        pair: &dyn Fn(u16) -> Option<Pair>,
        platform: &'static dyn Platform,
    ) -> Result<(u32, BlockInfo), NvmeError> {
        controller.wait_ready(platform, true)?;
        let (namespace, info) = admin.namespace()?;
        let count = platform.cpus().clamp(1, 64) as u32;
        let mut command = Command::new(opcode::SET_FEATURES, 0, 0);
        command.set(10, NUMBER_OF_QUEUES);
        command.set(11, (count - 1) << 16 | (count - 1));
        let granted = admin.run(command)?;
        let granted = (granted & 0xffff).min(granted >> 16).saturating_add(1);
        let count = count.min(granted) as u16;
        controller.used_messages = match controller.messages.count() {
            0 => 0,
            messages if messages > count => usize::from(count) + 1,
            _ => 1,
        };
        for id in 1..=count {
            let made = pair(id).ok_or(NvmeError::NoMemory)?;
            queues.push(IoQueue::new(made, platform)?);
            let message = controller.queue_message(usize::from(id) - 1) as u32;
            if let Some(queue) = queues.last() {
                queue.create(admin, id, message, controller.used_messages > 0)?;
            }
        }
        Ok((namespace, info))
    }

    /// What it is, for the log.
    pub fn describe(&self) -> alloc::string::String {
        alloc::format!(
            "NVMe {}.{}, {}",
            self.version >> 16,
            self.version >> 8 & 0xff,
            self.controller.messages.name()
        )
    }
}

impl IoQueue {
    fn new(pair: Pair, platform: &'static dyn Platform) -> Result<Self, NvmeError> {
        // One entry of a queue stays empty.
        let count = pair.entries() - 1;
        let lists = Dma::new(platform, usize::from(count) * LIST_BYTES);
        let free = Request {
            tag: 0,
            left: 0,
            status: BlockStatus::Ok,
        };
        Ok(Self {
            lists: lists.ok_or(NvmeError::NoMemory)?,
            state: Mutex::new(IoState {
                pair,
                commands: (0..count).map(|_| None).collect(),
                free_commands: (0..count).rev().collect(),
                requests: (0..count).map(|_| free).collect(),
                free_requests: (0..count).rev().collect(),
            }),
        })
    }

    /// Tells the controller of it (5.3, 5.4).
    fn create(
        &self,
        admin: &mut Admin<'_>,
        id: u16,
        message: u32,
        interrupts: bool,
    ) -> Result<(), NvmeError> {
        let state = self.state.lock();
        let [submission, completion] = state.pair.addresses();
        let size = (u32::from(state.pair.entries()) - 1) << 16 | u32::from(id);
        let mut command = Command::new(opcode::CREATE_COMPLETION, 0, 0);
        command.set_data(completion, 0);
        command.set(10, size);
        command.set(11, message << 16 | u32::from(interrupts) << 1 | 1);
        admin.run(command)?;
        let mut command = Command::new(opcode::CREATE_SUBMISSION, 0, 0);
        command.set_data(submission, 0);
        command.set(10, size);
        command.set(11, u32::from(id) << 16 | 1);
        admin.run(command)?;
        Ok(())
    }
}

impl IoState {
    /// A place for a request of so many commands; `Full` if there is none, `Invalid` if there
    /// will never be.
    fn begin(&mut self, tag: u64, commands: usize) -> Result<u16, SubmitError> {
        if commands > self.commands.len() {
            return Err(SubmitError::Invalid);
        }
        if commands > self.free_commands.len() {
            return Err(SubmitError::Full);
        }
        // There are as many places as commands, and each request has one at least.
        let index = self.free_requests.pop().ok_or(SubmitError::Full)?;
        if let Some(request) = self.requests.get_mut(usize::from(index)) {
            *request = Request {
                tag,
                left: commands as u16,
                status: BlockStatus::Ok,
            };
        }
        Ok(index)
    }

    /// An identifier for a command of a request's. There are enough: [`Self::begin`] looked.
    fn identifier(&mut self, request: u16) -> u16 {
        let id = self.free_commands.pop().unwrap_or_default();
        if let Some(command) = self.commands.get_mut(usize::from(id)) {
            *command = Some(request);
        }
        id
    }

    /// A command came back; gives its request, if that was the last. `Err` if there is none.
    fn finish(&mut self, finished: &Finished) -> Result<Option<Completion>, ()> {
        let command = self.commands.get_mut(usize::from(finished.id));
        let index = command.and_then(Option::take).ok_or(())?;
        self.free_commands.push(finished.id);
        let request = self.requests.get_mut(usize::from(index)).ok_or(())?;
        let status = match finished.status & 0x7ff {
            0 => BlockStatus::Ok,
            // Invalid opcode, of the generic ones.
            1 => BlockStatus::Unsupported,
            _ => BlockStatus::Error,
        };
        if request.status == BlockStatus::Ok {
            request.status = status;
        }
        request.left = request.left.checked_sub(1).ok_or(())?;
        if request.left != 0 {
            return Ok(None);
        }
        self.free_requests.push(index);
        Ok(Some(Completion {
            tag: request.tag,
            status: request.status,
        }))
    }

    /// Gives up one of the requests at a controller that is stopped.
    fn abandon(&mut self) -> Option<Completion> {
        let (index, request) = (0u16..)
            .zip(&mut self.requests)
            .find(|(_, request)| request.left != 0)?;
        request.left = 0;
        self.free_requests.push(index);
        Some(Completion {
            tag: request.tag,
            status: BlockStatus::Error,
        })
    }
}

impl NvmeBlock {
    /// Whether a request is one that the namespace takes.
    fn check(&self, asked: &BlockRequest<'_>) -> Result<(), SubmitError> {
        asked.check(&self.info, self.info.sectors)?;
        // Lists of pages cannot describe others.
        let aligned = |segment: &Segment| segment.address.is_multiple_of(4);
        match asked.segments.iter().all(aligned) {
            true => Ok(()),
            false => Err(SubmitError::Invalid),
        }
    }

    fn blocks(&self, sectors: u64) -> u64 {
        sectors * SECTOR_SIZE / u64::from(self.info.logical_block_size)
    }

    /// A command on a range of blocks, whose number is at most 65,536.
    fn ranged(&self, opcode: u8, id: u16, sector: u64, sectors: u64) -> Command {
        let mut command = Command::new(opcode, id, self.namespace);
        let (first, count) = (self.blocks(sector), self.blocks(sectors));
        command.set(10, first as u32);
        command.set(11, (first >> 32) as u32);
        command.set(12, count.saturating_sub(1) as u32 & 0xffff);
        command
    }

    /// Submits the data of a request, which was checked, as the commands that it takes.
    fn transfer(
        &self,
        queue: &IoQueue,
        asked: &BlockRequest<'_>,
        opcode: u8,
        sector: u64,
    ) -> Result<(), SubmitError> {
        let limit = self.info.max_segment_size;
        let block = u64::from(self.info.logical_block_size);
        let mut pieces = 0;
        let mut at = 0;
        while at < asked.segments.len() {
            let piece = prp::piece(asked.segments, at, limit);
            if !piece.bytes.is_multiple_of(block) {
                return Err(SubmitError::Invalid);
            }
            at = piece.end;
            pieces += 1;
        }
        let mut state = queue.state.lock();
        // Under the lock: who takes back what a broken controller had finds all of it.
        if self.controller.is_broken() {
            return Err(SubmitError::Broken);
        }
        let request = state.begin(asked.tag, pieces)?;
        let (mut at, mut sector) = (0, sector);
        while at < asked.segments.len() {
            let piece = prp::piece(asked.segments, at, limit);
            let id = state.identifier(request);
            let sectors = piece.bytes / SECTOR_SIZE;
            let mut command = self.ranged(opcode, id, sector, sectors);
            let segments = asked.segments.get(at..piece.end).unwrap_or_default();
            let [first, second] = prp::write(segments, &queue.lists, usize::from(id) * LIST_BYTES);
            command.set_data(first, second);
            state.pair.push(&command);
            at = piece.end;
            sector += sectors;
        }
        Ok(())
    }

    /// Submits a request of one command without data, or with a range's description as data.
    fn simple(&self, queue: &IoQueue, asked: &BlockRequest<'_>) -> Result<(), SubmitError> {
        let mut state = queue.state.lock();
        if self.controller.is_broken() {
            return Err(SubmitError::Broken);
        }
        let request = state.begin(asked.tag, 1)?;
        let id = state.identifier(request);
        let command = match asked.operation {
            BlockOperation::Discard { sector, sectors } => {
                let at = usize::from(id) * LIST_BYTES;
                let order = Ordering::Relaxed;
                let (first, count) = (self.blocks(sector), self.blocks(sectors));
                queue.lists.store32(at, 0, order);
                queue.lists.store32(at + 4, count as u32, order);
                queue.lists.store64(at + 8, first, order);
                let mut command = Command::new(opcode::DATASET_MANAGEMENT, id, self.namespace);
                command.set_data(queue.lists.address(at), 0);
                // One range, to be deallocated.
                command.set(11, 1 << 2);
                command
            }
            BlockOperation::WriteZeroes {
                sector,
                sectors,
                may_unmap,
            } => {
                let mut command = self.ranged(opcode::WRITE_ZEROES, id, sector, sectors);
                command.or(12, u32::from(may_unmap) << 25);
                command
            }
            _ => Command::new(opcode::FLUSH, id, self.namespace),
        };
        state.pair.push(&command);
        Ok(())
    }
}

impl Block for NvmeBlock {
    fn info(&self) -> BlockInfo {
        self.info.clone()
    }

    fn queues(&self) -> usize {
        self.queues.len()
    }

    fn submit(&self, queue: usize, request: &BlockRequest<'_>) -> Result<(), SubmitError> {
        let queue = self.queues.get(queue).ok_or(SubmitError::Invalid)?;
        self.check(request)?;
        match request.operation {
            BlockOperation::Read { sector } => self.transfer(queue, request, opcode::READ, sector),
            BlockOperation::Write { sector } => {
                self.transfer(queue, request, opcode::WRITE, sector)
            }
            _ => self.simple(queue, request),
        }
    }

    fn kick(&self, queue: usize) {
        if let Some(queue) = self.queues.get(queue)
            && !self.controller.is_broken()
        {
            queue.state.lock().pair.tell();
        }
    }

    fn complete(&self, queue: usize, budget: usize, done: &mut dyn FnMut(Completion)) -> usize {
        let Some(queue) = self.queues.get(queue) else {
            return 0;
        };
        let mut total = 0;
        while total < budget {
            // Handed over without the lock: who takes them may submit.
            let mut batch = [None; BATCH];
            let mut count = 0;
            let stopped = self.controller.is_broken() && self.controller.is_stopped();
            {
                let mut state = queue.state.lock();
                for slot in batch.iter_mut().take(budget - total) {
                    // Commands that are not the last of their request's leave it empty.
                    let taken = loop {
                        let Some(finished) = state.pair.take() else {
                            break if stopped { state.abandon() } else { None };
                        };
                        match state.finish(&finished) {
                            Ok(None) => {}
                            Ok(some) => break some,
                            Err(()) => {
                                self.controller.fail();
                                break None;
                            }
                        }
                    };
                    if taken.is_none() {
                        break;
                    }
                    *slot = taken;
                    count += 1;
                }
                if !self.controller.is_broken() {
                    state.pair.release();
                }
            }
            batch.into_iter().flatten().for_each(&mut *done);
            total += count;
            if count == 0 {
                break;
            }
        }
        total
    }

    fn arm(&self, queue: usize) -> bool {
        // It interrupts for each completion that comes from here on.
        let broken = self.controller.is_broken();
        self.queues.get(queue).is_some_and(|queue| {
            let state = queue.state.lock();
            let left = broken && state.requests.iter().any(|request| request.left != 0);
            state.pair.has_more() || left && self.controller.is_stopped()
        })
    }

    fn take_change(&self) -> bool {
        self.controller.changed.swap(false, Ordering::AcqRel)
    }

    fn is_broken(&self) -> bool {
        self.controller.is_broken()
    }
}

impl Interrupting for NvmeBlock {
    fn messages(&self) -> usize {
        self.controller.used_messages
    }

    fn queue_message(&self, queue: usize) -> usize {
        self.controller.queue_message(queue)
    }

    fn config_message(&self) -> usize {
        0
    }

    fn set_message(&self, index: usize, message: Option<Message>) {
        if index < self.messages() {
            self.controller.messages.set(index as u16, message);
        }
    }

    fn acknowledge(&self) {
        let status = self.controller.status();
        if status & FATAL != 0 || status == GONE {
            self.controller.fail();
        }
    }
}
