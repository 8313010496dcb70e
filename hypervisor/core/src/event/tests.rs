use std::sync::Arc;
use std::vec::Vec;

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::fifo::{BUSY, LINKED, MASKED, PENDING};
use super::guest::{FifoGuest, Host, p, take_upcall, two_level_drain, two_level_mask};
use super::*;
use crate::machine::mock::Always;
use crate::machine::{Memory as _, Never};

const A: DomainId = DomainId(1);
const B: DomainId = DomainId(2);

fn shared(domain: DomainId) -> Mfn {
    Mfn(u64::from(domain.0))
}

fn new(domain: DomainId, vcpus: u32) -> Arc<EventChannels> {
    EventChannels::new(domain, vcpus, Some(shared(domain)), u32::MAX).unwrap()
}

fn two() -> (Host, Arc<EventChannels>, Arc<EventChannels>) {
    (Host::new(256), new(A, 2), new(B, 2))
}

/// Connects a port of `a` with one of `b`.
fn connect(host: &Host, a: &Arc<EventChannels>, b: &Arc<EventChannels>) -> (EventPort, EventPort) {
    let pb = b.alloc_unbound(host, a.domain()).unwrap();
    (a.bind_interdomain(host, b, pb).unwrap(), pb)
}

#[test]
fn ports_are_given_lowest_first_and_again_after_close() {
    let (host, a, _) = two();
    for expected in 1..=200 {
        assert_eq!(a.alloc_unbound(&host, B), Ok(p(expected)));
    }
    a.close(&host, p(70)).unwrap();
    a.close(&host, p(3)).unwrap();
    assert_eq!(a.alloc_unbound(&host, B), Ok(p(3)));
    assert_eq!(a.bind_ipi(&host, VcpuId(1)), Ok(p(70)));
    assert_eq!(a.alloc_unbound(&host, B), Ok(p(201)));
}

#[test]
fn two_level_abi_ends_at_4095() {
    let (host, a, _) = two();
    for expected in 1..4096 {
        assert_eq!(a.alloc_unbound(&host, A), Ok(p(expected)));
    }
    assert_eq!(a.alloc_unbound(&host, A), Err(Error::NoSpace));
    a.close(&host, p(4095)).unwrap();
    assert_eq!(a.alloc_unbound(&host, A), Ok(p(4095)));
}

#[test]
fn limit_of_the_domain_is_kept() {
    let host = Host::new(8);
    let a = EventChannels::new(A, 1, Some(shared(A)), 5).unwrap();
    for _ in 1..=5 {
        a.alloc_unbound(&host, A).unwrap();
    }
    assert_eq!(a.alloc_unbound(&host, A), Err(Error::NoSpace));
}

#[test]
fn send_reaches_the_other_end_once() {
    let (host, a, b) = two();
    let (pa, pb) = connect(&host, &a, &b);
    // Binding sets the local event, in case something was lost before.
    assert!(take_upcall(&host, &a, 0));
    assert_eq!(two_level_drain(&host, &a, shared(A), 0), [pa.0]);

    assert_eq!(a.send(&host, pa), Ok(None));
    assert_eq!(a.send(&host, pa), Ok(None));
    assert_eq!(host.kicks_of(B.0, 0), 1);
    assert!(b.vcpu_needs_upcall(&host, VcpuId(0)));
    assert!(take_upcall(&host, &b, 0));
    assert_eq!(two_level_drain(&host, &b, shared(B), 0), [pb.0]);
    assert!(two_level_drain(&host, &b, shared(B), 0).is_empty());

    b.bind_vcpu(pb, VcpuId(1)).unwrap();
    a.send(&host, pa).unwrap();
    assert!(!b.vcpu_needs_upcall(&host, VcpuId(0)));
    assert!(b.vcpu_needs_upcall(&host, VcpuId(1)));
    assert!(!b.set_upcall_mask(&host, VcpuId(1), true));
    assert!(!b.vcpu_needs_upcall(&host, VcpuId(1)));
    assert!(b.set_upcall_mask(&host, VcpuId(1), false));
}

#[test]
fn masked_events_wait_for_unmask() {
    let (host, a, b) = two();
    let (pa, pb) = connect(&host, &a, &b);
    two_level_mask(&host, shared(B), pb.0);
    a.send(&host, pa).unwrap();
    assert!(!b.vcpu_needs_upcall(&host, VcpuId(0)));
    assert_eq!(b.poll_port(&host, pb), Ok(true));
    b.unmask(&host, pb).unwrap();
    assert!(take_upcall(&host, &b, 0));
    assert_eq!(two_level_drain(&host, &b, shared(B), 0), [pb.0]);
    b.unmask(&host, pb).unwrap();
    assert!(!b.vcpu_needs_upcall(&host, VcpuId(0)));
    assert_eq!(b.unmask(&host, p(5000)), Err(Error::Invalid));
    assert_eq!(b.unmask(&host, p(50)), Ok(()));
}

#[test]
fn bind_interdomain_checks_the_port() {
    let (host, a, b) = two();
    let for_other = b.alloc_unbound(&host, DomainId(7)).unwrap();
    assert_eq!(
        a.bind_interdomain(&host, &b, for_other),
        Err(Error::Invalid)
    );
    assert_eq!(a.bind_interdomain(&host, &b, p(0)), Err(Error::Invalid));
    assert_eq!(a.bind_interdomain(&host, &b, p(9)), Err(Error::Invalid));
    assert_eq!(a.bind_interdomain(&host, &b, p(999)), Err(Error::Invalid));
    let (_, pb) = connect(&host, &a, &b);
    assert_eq!(a.bind_interdomain(&host, &b, pb), Err(Error::Invalid));
    assert_eq!(a.counts(), (1, 0));
    assert_eq!(b.counts(), (2, 0));
}

#[test]
fn close_leaves_the_other_end_unbound() {
    let (host, a, b) = two();
    let (pa, pb) = connect(&host, &a, &b);
    assert_eq!(a.status(pa).unwrap().state, PortState::Interdomain(B, pb));
    a.close(&host, pa).unwrap();
    assert_eq!(a.status(pa).unwrap().state, PortState::Closed);
    assert_eq!(b.status(pb).unwrap().state, PortState::Unbound(A));
    assert_eq!(b.send(&host, pb), Ok(None));
    assert_eq!(a.close(&host, pa), Err(Error::Invalid));
    assert_eq!(a.close(&host, p(0)), Err(Error::Invalid));
    assert_eq!(a.send(&host, pa), Err(Error::Invalid));
    // And it can be bound again.
    assert_eq!(a.bind_interdomain(&host, &b, pb), Ok(pa));
}

#[test]
fn closing_clears_the_pending_bit() {
    let (host, a, b) = two();
    let (pa, pb) = connect(&host, &a, &b);
    a.send(&host, pa).unwrap();
    b.close(&host, pb).unwrap();
    let again = b.alloc_unbound(&host, A).unwrap();
    assert_eq!(again, pb);
    assert_eq!(b.poll_port(&host, again), Ok(false));
}

#[test]
fn loopback_works_and_leaks_nothing() {
    let (host, a, _) = two();
    let (p1, p2) = connect(&host, &a, &a);
    take_upcall(&host, &a, 0);
    two_level_drain(&host, &a, shared(A), 0);
    a.send(&host, p1).unwrap();
    assert_eq!(two_level_drain(&host, &a, shared(A), 0), [p2.0]);
    a.close(&host, p2).unwrap();
    assert_eq!(a.status(p1).unwrap().state, PortState::Unbound(A));
    a.close(&host, p1).unwrap();
    assert_eq!(a.counts(), (0, 0));
    assert_eq!(Arc::strong_count(&a), 1);
}

#[test]
fn virqs() {
    let (host, a, _) = two();
    assert_eq!(a.bind_virq(&host, 24, VcpuId(0)), Err(Error::Invalid));
    assert_eq!(a.bind_virq(&host, 2, VcpuId(1)), Err(Error::Invalid));
    assert_eq!(a.bind_virq(&host, 2, VcpuId(9)), Err(Error::Invalid));
    assert_eq!(
        a.bind_virq(&host, VIRQ_TIMER, VcpuId(2)),
        Err(Error::NoEntry)
    );
    let timer = a.bind_virq(&host, VIRQ_TIMER, VcpuId(1)).unwrap();
    assert_eq!(
        a.bind_virq(&host, VIRQ_TIMER, VcpuId(1)),
        Err(Error::Exists)
    );
    let console = a.bind_virq(&host, 2, VcpuId(0)).unwrap();

    a.send_virq(&host, VIRQ_TIMER, VcpuId(0));
    assert_eq!(host.kicks_of(A.0, 0) + host.kicks_of(A.0, 1), 0);
    a.send_virq(&host, VIRQ_TIMER, VcpuId(1));
    assert!(take_upcall(&host, &a, 1));
    assert_eq!(two_level_drain(&host, &a, shared(A), 1), [timer.0]);

    assert_eq!(a.bind_vcpu(timer, VcpuId(0)), Err(Error::Invalid));
    a.bind_vcpu(console, VcpuId(1)).unwrap();
    a.send_virq(&host, 2, VcpuId(0));
    assert!(take_upcall(&host, &a, 1));
    assert!(a.virq_enabled(2, VcpuId(0)));
    a.close(&host, console).unwrap();
    assert!(!a.virq_enabled(2, VcpuId(0)));
    a.close(&host, timer).unwrap();
    a.bind_virq(&host, VIRQ_TIMER, VcpuId(1)).unwrap();
    assert_eq!(a.send(&host, timer), Err(Error::Invalid));
}

#[test]
fn ipis_and_binding_to_vcpus() {
    let (host, a, _) = two();
    assert_eq!(a.bind_ipi(&host, VcpuId(2)), Err(Error::NoEntry));
    let ipi = a.bind_ipi(&host, VcpuId(1)).unwrap();
    a.send(&host, ipi).unwrap();
    assert!(take_upcall(&host, &a, 1));
    assert_eq!(a.bind_vcpu(ipi, VcpuId(0)), Err(Error::Invalid));
    assert_eq!(a.bind_vcpu(ipi, VcpuId(2)), Err(Error::NoEntry));
    assert_eq!(a.bind_vcpu(p(9), VcpuId(0)), Err(Error::Invalid));
    assert_eq!(a.bind_vcpu(p(999), VcpuId(0)), Err(Error::Invalid));
    let unbound = a.alloc_unbound(&host, B).unwrap();
    a.bind_vcpu(unbound, VcpuId(1)).unwrap();
    assert_eq!(
        a.status(unbound),
        Ok(PortStatus {
            state: PortState::Unbound(B),
            vcpu: VcpuId(1)
        })
    );
    a.close(&host, unbound).unwrap();
    assert_eq!(a.alloc_unbound(&host, B), Ok(unbound));
    assert_eq!(a.status(unbound).unwrap().vcpu, VcpuId(0));
}

#[test]
fn pirqs_are_nobodys() {
    let (_, a, _) = two();
    assert_eq!(a.bind_pirq(9), Err(Error::NotPermitted));
    assert_eq!(a.bind_pirq(u32::MAX), Err(Error::Invalid));
}

#[test]
fn status_of_ports() {
    let (host, a, _) = two();
    assert_eq!(a.status(p(0)).unwrap().state, PortState::Closed);
    assert_eq!(a.status(p(63)).unwrap().state, PortState::Closed);
    assert_eq!(a.status(p(64)), Err(Error::Invalid));
    let v = a.bind_virq(&host, 1, VcpuId(1)).unwrap();
    assert_eq!(
        a.status(v),
        Ok(PortStatus {
            state: PortState::Virq(1),
            vcpu: VcpuId(1)
        })
    );
}

#[test]
fn hypervisor_ports() {
    let (host, a, b) = two();
    let hv = a
        .alloc_unbound_for_hypervisor(&host, B, VcpuId(0), ConsumerId(42))
        .unwrap();
    assert_eq!(a.status(hv), Err(Error::Access));
    assert_eq!(a.close(&host, hv), Err(Error::Invalid));
    assert_eq!(a.send(&host, hv), Err(Error::Invalid));
    assert_eq!(a.bind_vcpu(hv, VcpuId(1)), Err(Error::Invalid));
    assert_eq!(a.poll_port(&host, hv), Err(Error::Invalid));
    assert_eq!(a.counts(), (1, 1));

    let pb = b.bind_interdomain(&host, &a, hv).unwrap();
    take_upcall(&host, &b, 0);
    two_level_drain(&host, &b, shared(B), 0);
    assert_eq!(
        b.send(&host, pb),
        Ok(Some(HypervisorEvent {
            consumer: ConsumerId(42),
            domain: A,
            port: hv
        }))
    );
    a.notify_from_hypervisor(&host, hv);
    assert_eq!(two_level_drain(&host, &b, shared(B), 0), [pb.0]);

    // A guest's reset leaves the hypervisor's ports alone.
    a.reset(&host, false, &Never).unwrap();
    assert_eq!(a.counts(), (1, 1));
    a.close_for_hypervisor(&host, hv).unwrap();
    assert_eq!(a.counts(), (0, 0));
    assert_eq!(b.status(pb).unwrap().state, PortState::Unbound(A));
}

#[test]
fn hypervisor_binds_to_a_guests_port() {
    let (host, a, _) = two();
    let own = EventChannels::new(DomainId::XEN, 0, None, u32::MAX).unwrap();
    let front = a.alloc_unbound(&host, DomainId(0)).unwrap();
    let back = own
        .bind_interdomain_for_hypervisor(&host, &a, front, DomainId(0), ConsumerId(7))
        .unwrap();
    assert_eq!(a.send(&host, front).unwrap().unwrap().port, back);
    own.notify_from_hypervisor(&host, back);
    assert_eq!(two_level_drain(&host, &a, shared(A), 0), [front.0]);
    assert!(matches!(
        a.status(front).unwrap().state,
        PortState::Interdomain(..)
    ));
    own.close_for_hypervisor(&host, back).unwrap();
    assert_eq!(
        a.status(front).unwrap().state,
        PortState::Unbound(DomainId(0))
    );
    assert_eq!(Arc::strong_count(&own), 1);
}

#[test]
fn registering_vcpu_info_marks_everything() {
    let host = Host::new(64);
    let a = new(A, 40);
    assert!(a.vcpu_info_location(VcpuId(31)).is_some());
    assert!(a.vcpu_info_location(VcpuId(32)).is_none());
    let page = Mfn(50);
    for (offset, error) in [(4096 - 56, Error::NoDevice), (4, Error::NoDevice)] {
        assert_eq!(
            a.register_vcpu_info(&host, VcpuId(0), page, offset, true),
            Err(error)
        );
    }
    assert_eq!(
        a.register_vcpu_info(&host, VcpuId(0), page, 0, false),
        Err(Error::Invalid)
    );
    assert_eq!(
        a.register_vcpu_info(&host, VcpuId(99), page, 0, true),
        Err(Error::NoEntry)
    );
    a.set_upcall_mask(&host, VcpuId(0), true);
    a.register_vcpu_info(&host, VcpuId(0), page, 4096 - 64, true)
        .unwrap();
    assert_eq!(
        a.register_vcpu_info(&host, VcpuId(0), page, 0, true),
        Err(Error::Invalid)
    );
    let frame = host.frame(page).unwrap();
    assert_eq!(frame.load(504) & 0xffff, 0x0101);
    assert_eq!(frame.load(505), u64::MAX);
    assert_eq!(host.kicks_of(A.0, 0), 1);

    a.register_vcpu_info(&host, VcpuId(33), page, 64, true)
        .unwrap();
    assert_eq!(frame.load(8), 0x0101);
    assert_eq!(host.refs(), 2);
    a.destroy(&host, &Never).unwrap();
    assert_eq!(host.refs(), 0);
    assert_eq!(host.frame(page).unwrap().load(505), u64::MAX);
}

#[test]
fn pollers_are_woken_by_their_port() {
    let (host, a, b) = two();
    let (pa, pb) = connect(&host, &a, &b);
    let (pa2, pb2) = connect(&host, &a, &b);
    two_level_mask(&host, shared(B), pb.0);
    b.poll_begin(VcpuId(1));
    assert_eq!(b.ports_pending(&host, &[pb, pb2]), Ok(false));
    assert_eq!(b.ports_pending(&host, &[pb, p(77)]), Err(Error::Invalid));
    b.poll_only(VcpuId(1), pb);
    a.send(&host, pa2).unwrap();
    assert!(host.wakes.lock().unwrap().is_empty());
    // Masked, as the ports of pollers are: they are woken all the same.
    a.send(&host, pa).unwrap();
    assert_eq!(host.wakes.lock().unwrap().as_slice(), [(B.0, 1)]);
    assert!(!b.is_polling(VcpuId(1)));
    b.poll_begin(VcpuId(0));
    b.poll_end(VcpuId(0));
    assert!(!b.is_polling(VcpuId(0)));
}

#[test]
fn reset_closes_all_and_can_be_preempted() {
    let (host, a, b) = two();
    for _ in 0..300 {
        connect(&host, &a, &b);
    }
    a.bind_virq(&host, 0, VcpuId(1)).unwrap();
    assert_eq!(a.reset(&host, true, &Never), Err(Error::Busy));
    assert_eq!(a.reset(&host, false, &Always), Err(Error::Restart));
    assert_eq!(a.reset(&host, false, &Always), Err(Error::Busy));
    let mut rounds = 0;
    while a.reset(&host, true, &Always) == Err(Error::Restart) {
        rounds += 1;
    }
    assert!(rounds > 2);
    assert_eq!(a.counts(), (0, 0));
    assert_eq!(b.counts(), (300, 0));
    assert!(!a.virq_enabled(0, VcpuId(1)));
    assert_eq!(a.alloc_unbound(&host, B), Ok(p(1)));
}

#[test]
fn destroy_frees_all_and_allows_no_more() {
    let (host, a, b) = two();
    let mut guest = fifo(&host, &a);
    for _ in 0..200 {
        connect(&host, &a, &b);
    }
    guest.drain(&host, 0, |_, _| {});
    while a.destroy(&host, &Always) == Err(Error::Restart) {}
    assert_eq!(a.counts(), (0, 0));
    assert_eq!(host.refs(), 0);
    assert_eq!(a.alloc_unbound(&host, B), Err(Error::Invalid));
    assert_eq!(
        a.init_control(&host, VcpuId(0), Mfn(9), 0),
        Err(Error::Invalid)
    );
    assert_eq!(host.refs(), 0);
    b.destroy(&host, &Never).unwrap();
    assert_eq!(Arc::strong_count(&a), 1);
    assert_eq!(Arc::strong_count(&b), 1);
}

// FIFO

const CONTROL: [Mfn; 2] = [Mfn(20), Mfn(21)];
const ARRAY: [Mfn; 2] = [Mfn(30), Mfn(31)];

fn fifo(host: &Host, channels: &EventChannels) -> FifoGuest {
    FifoGuest::new(host, channels, &CONTROL, &ARRAY)
}

fn drained(host: &Host, guest: &mut FifoGuest, vcpu: u32) -> Vec<u32> {
    let mut events = Vec::new();
    guest.drain(host, vcpu, |guest, port| {
        guest.clear_pending(host, port);
        events.push(port);
    });
    events
}

#[test]
fn fifo_setup_errors() {
    let (host, a, _) = two();
    assert_eq!(a.expand_array(&host, Mfn(30)), Err(Error::NotSupported));
    assert_eq!(
        a.init_control(&host, VcpuId(2), Mfn(20), 0),
        Err(Error::NoEntry)
    );
    for offset in [4, 4096 - 64, 4096, u32::MAX] {
        assert_eq!(
            a.init_control(&host, VcpuId(0), Mfn(20), offset),
            Err(Error::Invalid)
        );
    }
    host.deny_pages.store(true, Ordering::Relaxed);
    assert_eq!(
        a.init_control(&host, VcpuId(0), Mfn(20), 0),
        Err(Error::Invalid)
    );
    assert!(!a.uses_fifo());
    host.deny_pages.store(false, Ordering::Relaxed);
    assert_eq!(
        a.init_control(&host, VcpuId(0), Mfn(u64::MAX), 0),
        Err(Error::Invalid)
    );
    assert_eq!(a.init_control(&host, VcpuId(0), Mfn(20), 4096 - 72), Ok(17));
    assert_eq!(
        a.init_control(&host, VcpuId(0), Mfn(22), 0),
        Err(Error::Invalid)
    );
    for i in 0..128 {
        a.expand_array(&host, Mfn(40 + i)).unwrap();
    }
    assert_eq!(a.expand_array(&host, Mfn(200)), Err(Error::NoSpace));
    assert_eq!(host.refs(), 129);
    // Back to the 2-level ABI, with everything given back.
    a.reset(&host, false, &Never).unwrap();
    assert!(!a.uses_fifo());
    assert_eq!(host.refs(), 0);
}

#[test]
fn fifo_priorities_need_fifo() {
    let (host, a, _) = two();
    let ipi = a.bind_ipi(&host, VcpuId(0)).unwrap();
    assert_eq!(a.set_priority(ipi, 1), Err(Error::NotImplemented));
    fifo(&host, &a);
    assert_eq!(a.set_priority(ipi, 16), Err(Error::Invalid));
    assert_eq!(a.set_priority(ipi, 256), Err(Error::Invalid));
    assert_eq!(a.set_priority(p(9), 1), Err(Error::Access));
    assert_eq!(a.set_priority(p(900), 1), Err(Error::Invalid));
    assert_eq!(a.set_priority(ipi, 15), Ok(()));
}

#[test]
fn fifo_keeps_order_and_priority() {
    let (host, a, _) = two();
    let mut guest = fifo(&host, &a);
    let ports: Vec<_> = (0..6)
        .map(|_| a.bind_ipi(&host, VcpuId(0)).unwrap())
        .collect();
    a.set_priority(ports[4], 0).unwrap();
    a.set_priority(ports[5], 15).unwrap();
    for i in [5, 2, 0, 4, 1, 2] {
        a.send(&host, ports[i]).unwrap();
    }
    assert_eq!(host.kicks_of(A.0, 0), 1);
    assert!(take_upcall(&host, &a, 0));
    assert_eq!(
        drained(&host, &mut guest, 0),
        [ports[4].0, ports[2].0, ports[0].0, ports[1].0, ports[5].0]
    );
    // An emptied queue is ready again at the next event.
    a.send(&host, ports[1]).unwrap();
    assert!(take_upcall(&host, &a, 0));
    assert_eq!(drained(&host, &mut guest, 0), [ports[1].0]);
}

#[test]
fn fifo_masked_events_wait_for_unmask() {
    let (host, a, _) = two();
    let mut guest = fifo(&host, &a);
    let ipi = a.bind_ipi(&host, VcpuId(1)).unwrap();
    guest.mask(&host, ipi.0);
    a.send(&host, ipi).unwrap();
    assert_eq!(guest.word(&host, ipi.0), PENDING | MASKED);
    assert!(!guest.try_unmask(&host, ipi.0));
    a.unmask(&host, ipi).unwrap();
    assert_eq!(guest.word(&host, ipi.0), PENDING | LINKED);
    assert!(take_upcall(&host, &a, 1));
    assert_eq!(drained(&host, &mut guest, 1), [ipi.0]);
}

#[test]
fn fifo_closed_port_is_busy_while_linked() {
    let (host, a, _) = two();
    let mut guest = fifo(&host, &a);
    let ipi = a.bind_ipi(&host, VcpuId(0)).unwrap();
    a.send(&host, ipi).unwrap();
    a.close(&host, ipi).unwrap();
    assert_eq!(guest.word(&host, ipi.0) & PENDING, 0);
    assert_eq!(a.bind_ipi(&host, VcpuId(0)), Ok(p(ipi.0 + 1)));
    assert!(drained(&host, &mut guest, 0).is_empty());
    assert_eq!(a.bind_ipi(&host, VcpuId(0)), Ok(ipi));
}

#[test]
fn fifo_moves_between_vcpus() {
    let (host, a, b) = two();
    let mut guest = fifo(&host, &a);
    let (pb, pa) = connect(&host, &b, &a);
    b.send(&host, pb).unwrap();
    a.bind_vcpu(pa, VcpuId(1)).unwrap();
    b.send(&host, pb).unwrap();
    assert_eq!(drained(&host, &mut guest, 0), [pa.0]);
    b.send(&host, pb).unwrap();
    assert!(drained(&host, &mut guest, 0).is_empty());
    assert_eq!(drained(&host, &mut guest, 1), [pa.0]);
}

#[test]
fn fifo_queue_whose_tail_moved_away_is_empty() {
    let (host, a, b) = two();
    let mut guest = fifo(&host, &a);
    let (from_moved, moved) = connect(&host, &b, &a);
    let (from_stays, stays) = connect(&host, &b, &a);
    drained(&host, &mut guest, 0);
    b.send(&host, from_moved).unwrap();
    assert_eq!(drained(&host, &mut guest, 0), [moved.0]);
    a.bind_vcpu(moved, VcpuId(1)).unwrap();
    b.send(&host, from_moved).unwrap();
    // It is linked, on the queue of vCPU 1; appending to it there would
    // deliver the next event on the wrong vCPU.
    b.send(&host, from_stays).unwrap();
    assert_eq!(drained(&host, &mut guest, 0), [stays.0]);
    assert_eq!(drained(&host, &mut guest, 1), [moved.0]);
}

#[test]
fn fifo_saves_events_until_there_is_a_page() {
    let (host, a, _) = two();
    // Pending in the 2-level ABI, then delivered in the new one.
    let ipi = a.bind_ipi(&host, VcpuId(0)).unwrap();
    a.send(&host, ipi).unwrap();
    let late = a.bind_ipi(&host, VcpuId(1)).unwrap();
    let gone = a.bind_ipi(&host, VcpuId(1)).unwrap();
    a.init_control(&host, VcpuId(0), CONTROL[0], 64).unwrap();
    a.init_control(&host, VcpuId(1), CONTROL[1], 64).unwrap();
    a.send(&host, late).unwrap();
    a.send(&host, gone).unwrap();
    a.close(&host, gone).unwrap();
    a.expand_array(&host, ARRAY[0]).unwrap();
    for (vcpu, port) in [(0, ipi), (1, late)] {
        let head = host.frame(CONTROL[vcpu]).unwrap().load_u32(64 + 8 + 4 * 7);
        assert_eq!(head, port.0);
        assert!(a.vcpu_needs_upcall(&host, VcpuId(vcpu as u32)));
    }
    assert_eq!(a.poll_port(&host, ipi), Ok(true));
}

#[test]
fn fifo_drops_events_of_a_vcpu_without_control_block() {
    let (host, a, _) = two();
    a.init_control(&host, VcpuId(0), CONTROL[0], 64).unwrap();
    a.expand_array(&host, ARRAY[0]).unwrap();
    let ipi = a.bind_ipi(&host, VcpuId(1)).unwrap();
    a.send(&host, ipi).unwrap();
    assert_eq!(a.poll_port(&host, ipi), Ok(false));
}

#[test]
fn fifo_busy_tail_of_a_hostile_guest_is_bounded() {
    let (host, a, _) = two();
    let guest = fifo(&host, &a);
    let p1 = a.bind_ipi(&host, VcpuId(0)).unwrap();
    let p2 = a.bind_ipi(&host, VcpuId(0)).unwrap();
    a.send(&host, p1).unwrap();
    // The tail already links to itself and is busy: the link is replaced.
    guest.update(&host, p1.0, |_| Some(LINKED | BUSY | 0xfff_ffff));
    a.send(&host, p2).unwrap();
    assert_eq!(guest.word(&host, p1.0) & 0x1_ffff, p2.0);
    assert_eq!(guest.word(&host, p1.0) & BUSY, 0);
}

// Threads

/// Senders on as many threads, a consumer for each vCPU, and a thread that
/// masks, unmasks and moves ports. No event may be lost: after all, the last
/// count that a port's handler saw is the last one that was sent.
fn stress(use_fifo: bool) {
    const PORTS: usize = 12;
    const SENDERS: usize = 3;
    const ROUNDS: u32 = 4_000;
    let (host, a, b) = two();
    let guest = use_fifo.then(|| fifo(&host, &a));
    let ports: Vec<_> = (0..PORTS).map(|_| connect(&host, &b, &a)).collect();
    for (i, (_, pa)) in ports.iter().enumerate() {
        a.bind_vcpu(*pa, VcpuId(i as u32 % 2)).unwrap();
    }
    let sent: Vec<AtomicU32> = (0..PORTS).map(|_| AtomicU32::new(0)).collect();
    let seen: Vec<AtomicU32> = (0..PORTS).map(|_| AtomicU32::new(0)).collect();
    let senders_left = AtomicU32::new(SENDERS as u32);
    let stop = AtomicBool::new(false);
    let index = |port: u32| ports.iter().position(|(_, pa)| pa.0 == port);

    std::thread::scope(|scope| {
        for sender in 0..SENDERS {
            let (sent, ports, host, b, senders_left) = (&sent, &ports, &host, &b, &senders_left);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    // Each port belongs to one sender.
                    let i = (round as usize % (PORTS / SENDERS)) * SENDERS + sender;
                    sent[i].fetch_add(1, Ordering::SeqCst);
                    b.send(host, ports[i].0).unwrap();
                }
                senders_left.fetch_sub(1, Ordering::SeqCst);
            });
        }
        for vcpu in 0..2 {
            let (sent, seen, host, a, stop, index) = (&sent, &seen, &host, &a, &stop, &index);
            let mut guest = guest.as_ref().map(|g| g.view());
            scope.spawn(move || {
                loop {
                    let last = stop.load(Ordering::SeqCst);
                    if take_upcall(host, a, vcpu) {
                        match &mut guest {
                            Some(guest) => guest.drain(host, vcpu, |guest, port| {
                                guest.mask(host, port);
                                guest.clear_pending(host, port);
                                if let Some(i) = index(port) {
                                    seen[i].store(sent[i].load(Ordering::SeqCst), Ordering::SeqCst);
                                }
                                if !guest.try_unmask(host, port) {
                                    a.unmask(host, p(port)).unwrap();
                                }
                            }),
                            None => {
                                for port in two_level_drain(host, a, shared(A), vcpu) {
                                    if let Some(i) = index(port) {
                                        seen[i].fetch_max(
                                            sent[i].load(Ordering::SeqCst),
                                            Ordering::SeqCst,
                                        );
                                    }
                                }
                            }
                        }
                    } else if last {
                        break;
                    }
                }
            });
        }
        {
            let (ports, host, a, stop, senders_left) = (&ports, &host, &a, &stop, &senders_left);
            scope.spawn(move || {
                let mut i = 0;
                while senders_left.load(Ordering::SeqCst) != 0 {
                    i += 1;
                    let port = ports[i % PORTS].1;
                    match i % 3 {
                        0 => a.bind_vcpu(port, VcpuId((i / 3) as u32 % 2)).unwrap(),
                        1 if use_fifo => a.set_priority(port, (i / 7) as u32 % 16).unwrap(),
                        _ => a.unmask(host, port).unwrap(),
                    }
                    if i % 64 == 0 {
                        std::thread::yield_now();
                    }
                }
                stop.store(true, Ordering::SeqCst);
            });
        }
    });
    for i in 0..PORTS {
        assert_eq!(
            seen[i].load(Ordering::SeqCst),
            sent[i].load(Ordering::SeqCst),
            "port {} lost an event",
            ports[i].1
        );
    }
}

#[test]
fn no_event_is_lost_between_threads_two_level() {
    stress(false);
}

#[test]
fn no_event_is_lost_between_threads_fifo() {
    stress(true);
}

/// Binding and closing on two domains at once from both sides: no deadlock, no
/// panic, and the counts come out even.
#[test]
fn binds_and_closes_race() {
    let (host, a, b) = two();
    std::thread::scope(|scope| {
        for side in 0..4 {
            let (host, a, b) = (&host, &a, &b);
            scope.spawn(move || {
                let (one, other) = if side % 2 == 0 { (a, b) } else { (b, a) };
                let mut mine = Vec::new();
                for i in 0..500 {
                    let port = other.alloc_unbound(host, one.domain()).unwrap();
                    let Ok(local) = one.bind_interdomain(host, other, port) else {
                        continue;
                    };
                    one.send(host, local).unwrap();
                    if i % 2 == 0 {
                        one.close(host, local).unwrap();
                        other.close(host, port).unwrap();
                    } else {
                        mine.push((local, port));
                    }
                }
                for (local, port) in mine {
                    other.close(host, port).unwrap();
                    one.close(host, local).unwrap();
                }
            });
        }
    });
    assert_eq!(a.counts(), (0, 0));
    assert_eq!(b.counts(), (0, 0));
    assert_eq!(Arc::strong_count(&a), 1);
}

/// A guest that writes garbage into its event words and control blocks while
/// others send to it: the senders get through.
#[test]
fn fifo_garbage_does_no_harm() {
    let (host, a, b) = two();
    let guest = fifo(&host, &a);
    let ports: Vec<_> = (0..8).map(|_| connect(&host, &b, &a)).collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (host, stop, guest) = (&host, &stop, &guest);
        scope.spawn(move || {
            let mut x = 0x1234_5678_9abc_def1u64;
            while !stop.load(Ordering::SeqCst) {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                let frame = match x % 3 {
                    0 => CONTROL[0],
                    _ => guest.array[0],
                };
                host.frame(frame)
                    .unwrap()
                    .word((x >> 8) as usize % 16)
                    .store(x.rotate_left(23), Ordering::SeqCst);
            }
        });
        for round in 0..2_000 {
            let (pb, pa) = ports[round % 8];
            b.send(host, pb).unwrap();
            a.unmask(host, pa).unwrap();
        }
        stop.store(true, Ordering::SeqCst);
    });
    a.destroy(&host, &Never).unwrap();
    assert_eq!(host.refs(), 0);
}
