use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::vec::Vec;

fn mac(n: u32) -> MacAddress {
    let [a, b, c, d] = n.to_be_bytes();
    MacAddress([2, 0, a, b, c, d])
}

#[test]
fn addresses_are_read_and_written() {
    let text = "00:16:3e:0a:fF:1";
    let parsed = MacAddress::parse(text).unwrap();
    assert_eq!(parsed, MacAddress([0, 0x16, 0x3e, 0x0a, 0xff, 1]));
    assert_eq!(std::format!("{parsed}"), "00:16:3e:0a:ff:01");
    for bad in [
        "",
        "0:1:2:3:4",
        "0:1:2:3:4:5:6",
        "0:1:2:3:4:100",
        "0:1:2:3:4:+5",
        "0:1:2::4:5",
    ] {
        assert_eq!(MacAddress::parse(bad), None, "{bad}");
    }
}

#[test]
fn a_sender_is_learned_moves_and_ages() {
    let switch = Switch::new(1).unwrap();
    let [a, b, c] = [0; 3].map(|_| switch.add_port(None, 10).unwrap());
    assert_eq!(switch.forward(a, mac(1), mac(2), 5), Decision::Flood);
    assert_eq!(switch.forward(b, mac(2), mac(1), 5), Decision::Port(a));
    assert_eq!(switch.forward(a, mac(1), mac(2), 6), Decision::Port(b));
    // To who is behind the same port.
    assert_eq!(switch.forward(a, mac(3), mac(1), 6), Decision::Drop);
    assert_eq!(switch.forward(c, mac(2), mac(1), 7), Decision::Port(a));
    assert_eq!(switch.forward(a, mac(1), mac(2), 7), Decision::Port(c));
    assert_eq!(
        (switch.learned(a), switch.learned(b), switch.learned(c)),
        (2, 0, 1)
    );
    assert_eq!(
        switch.forward(a, mac(1), mac(2), 7 + AGEING),
        Decision::Flood
    );
    switch.remove_port(a);
    assert_eq!(
        switch.forward(c, mac(2), mac(1), 7 + AGEING),
        Decision::Flood
    );
}

#[test]
fn owned_addresses_cannot_be_taken() {
    let switch = Switch::new(1).unwrap();
    let nic = switch.add_port(None, 1000).unwrap();
    let vif = switch.add_port(Some(mac(1)), 10).unwrap();
    let bad = switch.add_port(Some(mac(2)), 10).unwrap();
    assert_eq!(switch.forward(bad, mac(1), mac(9), 0), Decision::Drop);
    assert_eq!(switch.forward(nic, mac(1), mac(9), 0), Decision::Drop);
    assert_eq!(switch.forward(nic, mac(9), mac(1), 0), Decision::Port(vif));
    // The newer of two has it, until it goes.
    let newer = switch.add_port(Some(mac(1)), 10).unwrap();
    assert_eq!(
        switch.forward(nic, mac(9), mac(1), 0),
        Decision::Port(newer)
    );
    switch.remove_port(newer);
    assert_eq!(switch.forward(nic, mac(9), mac(1), 0), Decision::Port(vif));
    assert_eq!(
        switch.add_port(Some(MacAddress::BROADCAST), 1),
        Err(Error::Invalid)
    );
}

#[test]
fn groups_go_to_all_and_are_not_learned() {
    let switch = Switch::new(1).unwrap();
    let a = switch.add_port(None, 10).unwrap();
    let group = MacAddress([1, 0, 0x5e, 0, 0, 1]);
    assert_eq!(
        switch.forward(a, mac(1), MacAddress::BROADCAST, 0),
        Decision::Flood
    );
    assert_eq!(switch.forward(a, mac(1), group, 0), Decision::Flood);
    assert_eq!(switch.forward(a, group, mac(1), 0), Decision::Drop);
    assert_eq!(
        switch.forward(a, MacAddress([0; 6]), mac(1), 0),
        Decision::Drop
    );
    let pause = MacAddress([1, 0x80, 0xc2, 0, 0, 1]);
    assert_eq!(switch.forward(a, mac(1), pause, 0), Decision::Drop);
}

#[test]
fn who_makes_up_addresses_hurts_nobody_else() {
    let switch = Switch::new(77).unwrap();
    let nic = switch.add_port(None, TABLE_SIZE as u32).unwrap();
    let bad = switch.add_port(Some(mac(1)), 64).unwrap();
    let others = 100;
    (0..others).for_each(|n| {
        switch.forward(nic, mac(1000 + n), mac(1), 0);
    });
    for n in 0..50_000 {
        switch.forward(bad, mac(100_000 + n), mac(1), n / 1000);
        assert!(switch.learned(bad) <= 64);
    }
    // A few may share full sets with the 64.
    let kept = (0..others)
        .filter(|&n| switch.forward(bad, mac(1), mac(1000 + n), 50) == Decision::Port(nic))
        .count();
    assert_eq!(kept, others as usize);
}

#[derive(Clone, Debug)]
enum Step {
    Frame {
        from: usize,
        source: u32,
        to: u32,
        after: u32,
    },
    Leave(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (0..5usize, 0..12u32, 0..12u32, prop_oneof![Just(0), Just(1), Just(AGEING)])
            .prop_map(|(from, source, to, after)| Step::Frame { from, source, to, after }),
        1 => (0..5usize).prop_map(Step::Leave),
    ]
}

#[test]
fn ports_come_and_go_while_senders_are_learned() {
    let switch = Switch::new(1).unwrap();
    let port = switch.add_port(None, 64).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..2_000 {
                let own = switch.add_port(Some(mac(1)), 10).unwrap();
                switch.remove_port(own);
            }
        });
        for n in 2..20_000 {
            switch.forward(port, mac(n), mac(1), 1);
        }
    });
    assert_eq!(switch.forward(port, mac(2), mac(1), 1), Decision::Flood);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Few addresses, so that none is pushed out: then a plain map says what is right.
    #[test]
    fn decides_as_a_plain_map_does(steps in prop::collection::vec(step(), 1..200), secret: u64) {
        let switch = Switch::new(secret).unwrap();
        // Ports 0 to 2 own the addresses 0 to 2.
        let own = |n: usize| (n < 3).then(|| mac(n as u32));
        let mut ports: Vec<_> = (0..5).map(|n| switch.add_port(own(n), 100).unwrap()).collect();
        let mut model: BTreeMap<u32, (usize, u32)> = BTreeMap::new();
        let mut now = 1;
        for step in steps {
            match step {
                Step::Leave(n) => {
                    switch.remove_port(ports[n]);
                    model.retain(|_, &mut (port, _)| port != n);
                    ports[n] = switch.add_port(own(n), 100).unwrap();
                    prop_assert_eq!(switch.learned(ports[n]), 0);
                }
                Step::Frame { from, source, to, after } => {
                    now += after;
                    let decision = switch.forward(ports[from], mac(source), mac(to), now);
                    let expected = if source < 3 && source as usize != from {
                        Decision::Drop
                    } else {
                        if source >= 3 {
                            model.insert(source, (from, now));
                        }
                        let at = if to < 3 {
                            Some(to as usize)
                        } else {
                            model.get(&to).filter(|(_, heard)| now - heard < AGEING).map(|&(port, _)| port)
                        };
                        match at {
                            Some(port) if port == from => Decision::Drop,
                            Some(port) => Decision::Port(ports[port]),
                            None => Decision::Flood,
                        }
                    };
                    prop_assert_eq!(decision, expected);
                    for (n, &port) in ports.iter().enumerate() {
                        let has = model.values().filter(|&&(at, _)| at == n).count();
                        prop_assert_eq!(switch.learned(port), has as u32);
                    }
                }
            }
        }
    }
}
