//! When to stop sending pages of a running guest and suspend it.
//!
//! After a round it is known how fast pages go over (a round ends when the target has read it),
//! and how many the guest wrote meanwhile: with those, and with what a pause takes without any
//! page, how long it would be down. Where rounds do not bring that down, the guest is
//! given less CPU, step by step; where even that does not help, the rounds end.

use std::time::Duration;

use super::status::Round;
use crate::stream::PAGE_SIZE;

/// What suspending, the rest of the state and resuming take at the least, without pages.
pub const FIXED: Duration = Duration::from_millis(60);
/// Rounds at most.
const MOST_ROUNDS: usize = 40;
/// Steps of slowing down: percent of a CPU for each of the guest's vCPUs.
const CAPS: [u16; 4] = [60, 35, 20, 10];
/// Rounds without progress before the next step.
const PATIENCE: usize = 2;

/// What to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Another round.
    Continue,
    /// Another round, with the guest slowed down to so much of a CPU.
    Throttle(u16),
    /// Suspend it.
    Stop,
    /// It cannot be done in the time that was given: give up.
    GiveUp,
}

/// What was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Goals {
    /// How long the guest may be down.
    pub downtime: Duration,
    /// How long it may all take; zero for no limit.
    pub timeout: Duration,
    /// At the timeout suspend it nevertheless.
    pub suspend_at_timeout: bool,
}

/// Bytes in a second of a round.
pub fn throughput(round: &Round) -> u64 {
    round.bytes.saturating_mul(1000) / round.ms.max(1)
}

/// Pages in a second that the guest wrote in a round.
pub fn dirty_rate(round: &Round) -> u64 {
    round.dirty.saturating_mul(1000) / round.ms.max(1)
}

/// How long it would take to send what the guest has written. Pages are taken to pack as
/// those of the rounds did.
fn rest(rounds: &[Round]) -> Duration {
    let Some(last) = rounds.last() else {
        return Duration::MAX;
    };
    let (pages, bytes, ms) = rounds.iter().fold((0u64, 0u64, 0u64), |sum, round| {
        (
            sum.0
                .saturating_add(round.pages)
                .saturating_add(round.zeros),
            sum.1.saturating_add(round.bytes),
            sum.2.saturating_add(round.ms),
        )
    });
    let per_page = (bytes / pages.max(1)).clamp(16, PAGE_SIZE as u64 + 16);
    let rate = (bytes.saturating_mul(1000) / ms.max(1)).max(1);
    Duration::from_millis(last.dirty.saturating_mul(per_page).saturating_mul(1000) / rate)
}

/// How long the guest would be down if it were suspended now; `fixed` is what that takes without
/// pages.
pub fn predict(rounds: &[Round], fixed: Duration) -> Duration {
    fixed.saturating_add(rest(rounds))
}

/// What to do after a round.
pub fn next(
    rounds: &[Round],
    elapsed: Duration,
    goals: Goals,
    fixed: Duration,
    throttled: u16,
) -> Next {
    // Where there is no room left for pages, at least they shall not be most of it.
    let room = goals.downtime.saturating_sub(fixed).max(goals.downtime / 3);
    if rest(rounds) <= room {
        return Next::Stop;
    }
    if !goals.timeout.is_zero() && elapsed >= goals.timeout {
        return match goals.suspend_at_timeout {
            true => Next::Stop,
            false => Next::GiveUp,
        };
    }
    if rounds.len() >= MOST_ROUNDS {
        return Next::Stop;
    }
    // Progress is a tenth less to send than the rounds before.
    let Some((last, before)) = rounds.split_last() else {
        return Next::Continue;
    };
    let recent = before.iter().rev().take(PATIENCE);
    let stuck = before.len() > PATIENCE
        && recent
            .clone()
            .all(|round| last.dirty > round.dirty / 10 * 9);
    if !stuck {
        return Next::Continue;
    }
    // Give each step its rounds.
    let steps_taken = CAPS
        .iter()
        .filter(|&&cap| throttled != 0 && cap >= throttled)
        .count();
    if before.len() < (steps_taken + 1) * (PATIENCE + 1) {
        return Next::Continue;
    }
    match CAPS.get(steps_taken) {
        Some(&cap) => Next::Throttle(cap),
        None => Next::Stop,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOALS: Goals = Goals {
        downtime: Duration::from_millis(300),
        timeout: Duration::ZERO,
        suspend_at_timeout: false,
    };

    /// A guest of some pages that writes so many in a second (of CPU), over a line of 100 MB/s.
    fn run(pages: u64, rate: u64, goals: Goals) -> (Vec<Round>, u16, Next) {
        let (mut rounds, mut throttled, mut send, mut elapsed) = (Vec::new(), 0, pages, 0);
        loop {
            let bytes = send * 4100;
            let ms = (bytes / 100_000).max(1);
            let speed = if throttled == 0 {
                100
            } else {
                u64::from(throttled)
            };
            let dirty = (rate * ms / 1000 * speed / 100).min(pages);
            rounds.push(Round {
                pages: send,
                zeros: 0,
                bytes,
                ms,
                dirty,
            });
            elapsed += ms;
            let elapsed = Duration::from_millis(elapsed);
            match next(&rounds, elapsed, goals, FIXED, throttled) {
                Next::Continue => {}
                Next::Throttle(cap) => {
                    assert!(throttled == 0 || cap < throttled);
                    throttled = cap;
                }
                end => return (rounds, throttled, end),
            }
            send = dirty;
        }
    }

    #[test]
    fn idle_guests_take_few_rounds() {
        let (rounds, throttled, end) = run(65536, 100, GOALS);
        assert!(rounds.len() <= 2, "{rounds:?}");
        assert_eq!((throttled, end), (0, Next::Stop));
    }

    #[test]
    fn busy_guests_converge_without_being_slowed_down() {
        let (rounds, throttled, end) = run(65536, 12_000, GOALS);
        assert!(rounds.len() < 8, "{}", rounds.len());
        assert_eq!((throttled, end), (0, Next::Stop));
        assert!(predict(&rounds, FIXED) <= GOALS.downtime);
    }

    #[test]
    fn guests_that_write_faster_than_the_line_are_slowed_down() {
        let (rounds, throttled, end) = run(65536, 60_000, GOALS);
        assert!(throttled != 0 && throttled < 40, "{throttled}");
        assert_eq!(end, Next::Stop);
        assert!(
            predict(&rounds, FIXED) <= GOALS.downtime,
            "{:?}",
            predict(&rounds, FIXED)
        );
    }

    #[test]
    fn what_a_pause_takes_anyway_leaves_less_room_for_pages() {
        let round = |dirty| {
            [Round {
                pages: 1000,
                zeros: 0,
                bytes: 4_000_000,
                ms: 1000,
                dirty,
            }]
        };
        let next = |dirty, fixed| {
            let fixed = Duration::from_millis(fixed);
            next(&round(dirty), Duration::ZERO, GOALS, fixed, 0)
        };
        assert_eq!(next(240, 60), Next::Stop);
        assert_eq!(next(240, 100), Next::Continue);
        assert_eq!(next(200, 100), Next::Stop);
        // It cannot be kept: a third is for pages.
        assert_eq!(next(200, 5000), Next::Continue);
        assert_eq!(next(100, 5000), Next::Stop);
        let predicted = predict(&round(100), Duration::from_millis(5000));
        assert_eq!(predicted, Duration::from_millis(5100));
    }

    #[test]
    fn the_time_that_is_given_is_kept() {
        let goals = Goals {
            timeout: Duration::from_secs(5),
            ..GOALS
        };
        assert_eq!(run(65536, 600_000, goals).2, Next::GiveUp);
        let goals = Goals {
            suspend_at_timeout: true,
            ..goals
        };
        assert_eq!(run(65536, 600_000, goals).2, Next::Stop);
        // Without it, the rounds end all the same.
        assert!(run(65536, 600_000, GOALS).0.len() <= MOST_ROUNDS);
    }
}
