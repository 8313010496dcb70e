//! Arithmetic of clocks: counter ticks to nanoseconds, and calendar dates to
//! seconds since 1970. Which counter is read, and how its rate became known, is
//! the machine's matter.

/// Nanoseconds in a second.
pub const NS_PER_SECOND: u64 = 1_000_000_000;

/// How ticks of a counter become nanoseconds, in the form that guests get it
/// (`tsc_to_system_mul` and `tsc_shift` of `vcpu_time_info`, xen.h):
/// `ns = ((ticks << shift) * mul) >> 32`, where a negative shift shifts right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TscScale {
    /// `tsc_to_system_mul`: a fraction of 2^32, with bit 31 set.
    pub mul: u32,
    /// `tsc_shift`, in bits, -31 to 31.
    pub shift: i8,
}

impl TscScale {
    /// The scale for a counter of `hz` ticks a second; `None` below 1 Hz and
    /// above 2^32 GHz, where the format cannot hold it.
    pub fn from_hz(hz: u64) -> Option<Self> {
        if hz == 0 {
            return None;
        }
        // The shift brings the rate into (1 GHz, 2 GHz], and so the multiplier
        // into [2^31, 2^32): the most digits that the format can carry.
        let rate = u128::from(hz);
        for shift in -31i8..=31 {
            let numerator = u128::from(NS_PER_SECOND) << 32;
            let mul = if shift < 0 {
                (numerator << u32::from(shift.unsigned_abs())) / rate
            } else {
                numerator / (rate << u32::from(shift.unsigned_abs()))
            };
            if let Ok(mul) = u32::try_from(mul)
                && mul >= 1 << 31
            {
                return Some(Self { mul, shift });
            }
        }
        None
    }

    /// Nanoseconds in `ticks`, rounded down; wraps beyond 2^64 ns (584 years).
    pub const fn to_ns(self, ticks: u64) -> u64 {
        let ticks = if self.shift < 0 {
            ticks >> self.shift.unsigned_abs()
        } else {
            ticks << self.shift
        };
        ((ticks as u128 * self.mul as u128) >> 32) as u64
    }

    /// The least number of ticks after which [`to_ns`](Self::to_ns) gives at
    /// least `ns`, so that a timer set by it is never early. Saturates.
    pub const fn to_ticks(self, ns: u64) -> u64 {
        // ceil(ns * 2^32 / mul), then undo the shift, rounding up as well.
        let scaled = ((ns as u128) << 32).div_ceil(self.mul as u128);
        let ticks = if self.shift < 0 {
            scaled << self.shift.unsigned_abs()
        } else {
            let n = self.shift as u32;
            (scaled + ((1u128 << n) - 1)) >> n
        };
        if ticks > u64::MAX as u128 {
            u64::MAX
        } else {
            ticks as u64
        }
    }
}

/// A date and time of day as a real-time clock tells it (UTC).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DateTime {
    /// Full year, such as 2026.
    pub year: u32,
    /// 1 to 12.
    pub month: u32,
    /// 1 to 31.
    pub day: u32,
    /// 0 to 23.
    pub hour: u32,
    /// 0 to 59.
    pub minute: u32,
    /// 0 to 60.
    pub second: u32,
}

impl DateTime {
    /// Seconds since 1970-01-01 00:00:00 UTC; `None` if a field is out of range
    /// or the year is before 1970 or after 9999.
    pub fn to_unix(self) -> Option<u64> {
        let Self {
            year,
            month,
            day,
            hour,
            minute,
            second,
        } = self;
        if !(1970..=9999).contains(&year)
            || !(1..=12).contains(&month)
            || !(1..=31).contains(&day)
            || hour > 23
            || minute > 59
            || second > 60
        {
            return None;
        }
        // Years counted from March put the leap day at the end.
        let (y, m) = if month > 2 {
            (year, month - 3)
        } else {
            (year - 1, month + 9)
        };
        let day_of_year = (153 * m + 2) / 5 + day - 1;
        let leap_days = y / 4 - y / 100 + y / 400;
        let days = u64::from(y) * 365 + u64::from(leap_days) + u64::from(day_of_year) - 719_468;
        Some(days * 86_400 + u64::from(hour * 3600 + minute * 60 + second))
    }
}

/// Registers of a CMOS real-time clock, as read (MC146818).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CmosTime {
    /// Register 0x00.
    pub second: u8,
    /// Register 0x02.
    pub minute: u8,
    /// Register 0x04.
    pub hour: u8,
    /// Register 0x07.
    pub day: u8,
    /// Register 0x08.
    pub month: u8,
    /// Register 0x09, two digits.
    pub year: u8,
    /// Register 0x32 (or where FADT says), two digits; 0 or 0xff if unknown.
    pub century: u8,
    /// Register 0x0b: bit 2 = binary not BCD, bit 1 = 24 hours.
    pub status_b: u8,
}

impl CmosTime {
    /// The date that the registers mean; `None` if a BCD digit is not one.
    pub fn decode(self) -> Option<DateTime> {
        let binary = self.status_b & 4 != 0;
        let number = |raw: u8| -> Option<u32> {
            if binary {
                return Some(u32::from(raw));
            }
            let (high, low) = (raw >> 4, raw & 15);
            (high < 10 && low < 10).then(|| u32::from(high) * 10 + u32::from(low))
        };
        let mut hour = number(self.hour & 0x7f)?;
        if self.status_b & 2 == 0 {
            // 12-hour clock: bit 7 says afternoon, 12 means 0.
            hour = hour % 12 + if self.hour & 0x80 != 0 { 12 } else { 0 };
        }
        let year = number(self.year)?;
        let century = match number(self.century) {
            Some(century @ 19..=99) => century,
            // No century register: years 70 to 99 are of the 20th century.
            _ if year >= 70 => 19,
            _ => 20,
        };
        Some(DateTime {
            year: century * 100 + year,
            month: number(self.month)?,
            day: number(self.day)?,
            hour,
            minute: number(self.minute)?,
            second: number(self.second)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn scale_of_known_rates() {
        // 1 GHz: one tick a nanosecond. The format's exact form is mul = 2^31, shift = 1.
        assert_eq!(
            TscScale::from_hz(1_000_000_000),
            Some(TscScale {
                mul: 1 << 31,
                shift: 1
            })
        );
        let scale = TscScale::from_hz(2_500_000_000).unwrap();
        assert_eq!(scale.shift, -1);
        assert_eq!(scale.to_ns(2_500_000_000 * 10) / 10, 999_999_999);
        assert_eq!(TscScale::from_hz(0), None);
    }

    #[test]
    fn dates() {
        let at = |year, month, day, hour, minute, second| {
            DateTime {
                year,
                month,
                day,
                hour,
                minute,
                second,
            }
            .to_unix()
        };
        assert_eq!(at(1970, 1, 1, 0, 0, 0), Some(0));
        assert_eq!(at(2000, 3, 1, 0, 0, 0), Some(951_868_800));
        assert_eq!(at(2024, 2, 29, 23, 59, 59), Some(1_709_251_199));
        assert_eq!(at(2026, 11, 22, 12, 0, 0), Some(1_795_348_800));
        assert_eq!(at(1969, 12, 31, 0, 0, 0), None);
        assert_eq!(at(2026, 13, 1, 0, 0, 0), None);
    }

    #[test]
    fn cmos_registers() {
        let bcd = CmosTime {
            second: 0x59,
            minute: 0x07,
            hour: 0x92, // 12 h clock, 12 PM
            day: 0x22,
            month: 0x11,
            year: 0x26,
            century: 0x20,
            status_b: 0,
        };
        let date = bcd.decode().unwrap();
        assert_eq!((date.year, date.month, date.day), (2026, 11, 22));
        assert_eq!((date.hour, date.minute, date.second), (12, 7, 59));
        let midnight = CmosTime { hour: 0x12, ..bcd };
        assert_eq!(midnight.decode().unwrap().hour, 0);
        let absent = CmosTime {
            second: 0xff,
            minute: 0xff,
            hour: 0xff,
            day: 0xff,
            month: 0xff,
            year: 0xff,
            century: 0xff,
            status_b: 0xff,
        };
        assert_eq!(absent.decode().and_then(DateTime::to_unix), None);
    }

    proptest! {
        #[test]
        fn scale_is_exact_enough_and_inverts(hz in 1_000_000u64..20_000_000_000, ns in 0u64..1 << 55) {
            let scale = TscScale::from_hz(hz).unwrap();
            prop_assert!(scale.mul >= 1 << 31);
            let ticks = scale.to_ticks(ns);
            prop_assert!(scale.to_ns(ticks) >= ns);
            let exact = u128::from(ticks) * u128::from(NS_PER_SECOND) / u128::from(hz);
            let got = u128::from(scale.to_ns(ticks));
            // One part in 2^31, and what one shifted-out tick is worth.
            let slack = (exact >> 31) + 2 + u128::from(NS_PER_SECOND / hz.min(NS_PER_SECOND)) ;
            prop_assert!(got <= exact + slack && exact <= got + slack, "{got} {exact}");
        }

        #[test]
        fn scale_is_monotonic(hz in 1_000_000u64..20_000_000_000, a in 0u64..1 << 50, d in 0u64..1 << 50) {
            let scale = TscScale::from_hz(hz).unwrap();
            prop_assert!(scale.to_ns(a + d) >= scale.to_ns(a));
        }

        #[test]
        fn any_registers_decode_without_panic(r in any::<[u8; 8]>()) {
            let time = CmosTime {
                second: r[0], minute: r[1], hour: r[2], day: r[3],
                month: r[4], year: r[5], century: r[6], status_b: r[7],
            };
            let _ = time.decode().and_then(DateTime::to_unix);
        }
    }
}
