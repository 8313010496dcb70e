//! How fast a move may send, over all its connections.

use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A limit.
#[derive(Debug)]
pub struct Pace {
    /// Bytes in a second; 0 for no limit.
    limit: u64,
    /// When all that was sent is paid for.
    due: Mutex<Instant>,
}

impl Pace {
    /// So many bytes in a second; 0 for no limit.
    pub fn new(limit: u64) -> Self {
        Self {
            limit,
            due: Mutex::new(Instant::now()),
        }
    }

    /// So many bytes were sent: waits until they are within the limit.
    pub fn spend(&self, bytes: u64) {
        sleep(self.wait(bytes, Instant::now()));
    }

    fn wait(&self, bytes: u64, now: Instant) -> Duration {
        if self.limit == 0 {
            return Duration::ZERO;
        }
        let time = Duration::from_micros(bytes.saturating_mul(1_000_000) / self.limit);
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        // Time in which nothing was sent is not saved up.
        *due = (*due).max(now) + time;
        due.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_who_send_share_the_limit() {
        let pace = Pace::new(1 << 20);
        let now = Instant::now() + Duration::from_secs(1);
        let second = Duration::from_secs(1);
        assert_eq!(pace.wait(1 << 20, now), second);
        assert_eq!(pace.wait(1 << 20, now), 2 * second);
        assert_eq!(pace.wait(0, now + second), second);
        // A rest is no credit.
        assert_eq!(pace.wait(1 << 20, now + 10 * second), second);
        assert_eq!(Pace::new(0).wait(1 << 40, now), Duration::ZERO);
    }
}
