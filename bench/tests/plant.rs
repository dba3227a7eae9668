//! Compares the simulator's queue with the dispatcher's: both get the same requests and must return the same ones.

use admission::Order;
use dispatcher::fair::Tenant;
use dispatcher::queue::{Queue, QueueEntry, SequenceNumber};
use lab::simulate::plant::queue::PlantQueue;
use lab::simulate::requests::PlantRequest;
use proptest::prelude::*;
use std::time::{Duration, Instant};

/// The objective, in nanoseconds.
const OBJECTIVE: u64 = 500_000_000;
/// The deadline after the arrival, in nanoseconds.
const DEADLINE: u64 = 2_000_000_000;

proptest! {
    #[test]
    fn both_queues_return_the_same_requests_in_the_same_order(
        order in prop::sample::select(vec![Order::LateLast, Order::Fifo]),
        steps in prop::collection::vec((0..4_u8, 0..120_u64, 1..200_u64), 1..400),
    ) {
        let epoch = Instant::now();
        let at = |nanoseconds: u64| epoch + Duration::from_nanos(nanoseconds);
        let mut plant_queue = PlantQueue::new(order, OBJECTIVE, DEADLINE);
        let mut queue = Queue::new(order, usize::MAX);
        let mut dispatched = None;
        let mut now = 0;
        for (action, milliseconds, service_milliseconds) in steps {
            // One more nanosecond, because arrival times identify the requests and must differ.
            now += milliseconds * 1_000_000 + 1;
            let service = service_milliseconds * 1_000_000;
            let service_time = Duration::from_nanos(service);
            if action == 0 {
                plant_queue.push(PlantRequest { arrived: now, service_time: 0 });
                let entry = QueueEntry {
                    sequence_number: SequenceNumber(now),
                    tenant: Tenant::default(),
                    objective: at(now + OBJECTIVE),
                    deadline: at(now + DEADLINE),
                    request: now,
                };
                prop_assert!(queue.push(entry).is_ok());
            } else if action == 1
                && let Some((request, entry)) = dispatched.take()
            {
                plant_queue.requeue(request);
                queue.requeue(entry);
            } else {
                queue.demote(at(now), service_time);
                plant_queue.demote(now, service);
                let popped = queue.pop(at(now), service_time, |_| Some(())).map(|(entry, ())| entry);
                let simulated = plant_queue.pop(now, service);
                let arrived = simulated.map(|request| request.arrived);
                prop_assert_eq!(arrived, popped.as_ref().map(|entry| entry.request));
                dispatched = simulated.zip(popped);
            }
        }
    }
}
