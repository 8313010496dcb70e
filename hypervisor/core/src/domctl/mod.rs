//! What control of domains (public header domctl.h) decides without the machine: which
//! configurations a new domain may have, the numbers of domains, the rate of a
//! domain's clock, and the saved state of a vCPU's FPU.

mod create;
mod ids;
mod tsc;
mod xstate;

pub use create::{CreateLimits, NewDomain};
pub use ids::DomainIds;
pub use tsc::{Clocks, Emulated, Tsc, TscInfo};
pub use xstate::{HEADER_SIZE, SavedState};
