//! What a backend says of itself in the store, and what a frontend answers (io/blkif.h).

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use super::Disk;
use super::request::MAX_INDIRECT_SEGMENTS;
use super::ring::{MAX_ORDER, Protocol};
use crate::ids::{EventPort, GrantRef};
use xen_abi::io_blkif::VDISK_READONLY;

/// What a backend offers beside what the disk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer {
    /// Rings of a device, at least 1.
    pub max_queues: u32,
    /// Whether grants are kept for a frontend that uses the same ones again and again. It
    /// then copies all data itself, so this pays only where using a grant is dear; here it is not.
    pub persistent: bool,
}

/// The nodes of a backend by which a frontend decides what to ask for.
pub fn features(disk: &Disk, offer: Offer) -> Vec<(&'static str, String)> {
    let flag = |on: bool| u32::from(on).to_string();
    let mut nodes = alloc::vec![
        ("feature-flush-cache", flag(disk.flush)),
        ("feature-barrier", flag(disk.flush)),
        ("feature-persistent", flag(offer.persistent)),
        (
            "feature-max-indirect-segments",
            MAX_INDIRECT_SEGMENTS.to_string(),
        ),
        ("max-ring-page-order", MAX_ORDER.to_string()),
        ("max-ring-pages", (1u32 << MAX_ORDER).to_string()),
        ("multi-queue-max-queues", offer.max_queues.to_string()),
        ("feature-discard", flag(disk.discard.is_some())),
    ];
    if let Some(limits) = disk.discard {
        let granularity = limits
            .alignment
            .saturating_mul(512)
            .max(disk.logical_block_size.into());
        nodes.push(("discard-granularity", granularity.to_string()));
        nodes.push(("discard-alignment", "0".to_string()));
        nodes.push(("discard-secure", "0".to_string()));
    }
    nodes
}

/// The nodes that say what the disk is.
pub fn properties(disk: &Disk) -> Vec<(&'static str, String)> {
    let info = if disk.read_only { VDISK_READONLY } else { 0 };
    alloc::vec![
        ("sectors", disk.sectors().to_string()),
        ("info", info.to_string()),
        ("sector-size", disk.logical_block_size.to_string()),
        ("physical-sector-size", disk.physical_block_size.to_string()),
    ]
}

/// A ring that a frontend set up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RingKeys {
    /// Grants of its pages, in order.
    pub references: Vec<GrantRef>,
    /// The frontend's port.
    pub port: EventPort,
}

/// What a frontend chose.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Choice {
    /// How it lays out its rings.
    pub protocol: Protocol,
    /// It uses its grants again and again.
    pub persistent: bool,
    /// Its rings.
    pub rings: Vec<RingKeys>,
}

/// What is wrong with a frontend's nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChoiceError {
    /// A node is missing or no number.
    Node(String),
    /// A layout that is not known.
    Protocol(String),
    /// So many rings were not offered.
    Queues(u64),
    /// So long a ring was not offered, or its length is no power of 2: pages.
    Pages(u64),
}

impl fmt::Display for ChoiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "reading {node}"),
            Self::Protocol(name) => write!(f, "unknown protocol {name:?}"),
            Self::Queues(count) => write!(f, "{count} queues are not offered"),
            Self::Pages(count) => write!(f, "a ring of {count} pages is not offered"),
        }
    }
}

impl Choice {
    /// Reads a frontend's nodes, which `read` gives by their name under the frontend's directory.
    pub fn read(
        read: &mut dyn FnMut(&str) -> Option<String>,
        offer: Offer,
    ) -> Result<Self, ChoiceError> {
        let name = read("protocol");
        let protocol = match &name {
            None => Protocol::X86_64,
            Some(name) => Protocol::from_name(name.trim())
                .ok_or_else(|| ChoiceError::Protocol(name.chars().take(32).collect()))?,
        };
        let mut number = |node: &str| -> Result<Option<u64>, ChoiceError> {
            match read(node) {
                None => Ok(None),
                Some(text) => match text.trim().parse() {
                    Ok(number) => Ok(Some(number)),
                    Err(_) => Err(ChoiceError::Node(node.to_string())),
                },
            }
        };
        let persistent = offer.persistent && number("feature-persistent")?.unwrap_or(0) != 0;
        let queues = number("multi-queue-num-queues")?.unwrap_or(1);
        if queues == 0 || queues > offer.max_queues.max(1).into() {
            return Err(ChoiceError::Queues(queues));
        }
        let pages = match (number("ring-page-order")?, number("num-ring-pages")?) {
            (Some(order), _) if order <= MAX_ORDER.into() => 1 << order,
            (Some(order), _) => return Err(ChoiceError::Pages(1u64 << order.min(63))),
            (None, Some(pages)) => pages,
            (None, None) => 1,
        };
        if !pages.is_power_of_two() || pages > 1 << MAX_ORDER {
            return Err(ChoiceError::Pages(pages));
        }
        let mut small = |node: String| -> Result<u32, ChoiceError> {
            number(&node)?
                .and_then(|value| u32::try_from(value).ok())
                .ok_or(ChoiceError::Node(node))
        };
        let mut rings = Vec::new();
        for queue in 0..queues {
            let place = if queues == 1 {
                String::new()
            } else {
                format!("queue-{queue}/")
            };
            let mut references = Vec::new();
            if pages == 1 {
                // Some frontends number the only page.
                let reference = small(format!("{place}ring-ref"))
                    .or_else(|error| small(format!("{place}ring-ref0")).map_err(|_| error))?;
                references.push(GrantRef(reference));
            } else {
                for page in 0..pages {
                    references.push(GrantRef(small(format!("{place}ring-ref{page}"))?));
                }
            }
            rings.push(RingKeys {
                references,
                port: EventPort(small(format!("{place}event-channel"))?),
            });
        }
        Ok(Self {
            protocol,
            persistent,
            rings,
        })
    }
}
