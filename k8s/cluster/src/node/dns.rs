//! The cluster's name server. It resolves the names of Services over UDP.

use super::service_table::ServiceTable;
use crate::network;
use anyhow::{Context, Result};
use simple_dns::rdata::{A, RData};
use simple_dns::{CLASS, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};
use tokio::net::UdpSocket;

/// The longest query that is read, in bytes.
const MAX_QUERY_BYTES: usize = 1500;

/// The seconds for which a client may cache an answer. CoreDNS has the same value for clusters.
const TTL_SECONDS: u32 = 5;

/// Starts a task that answers queries.
///
/// # Errors
/// If the port is taken.
pub(super) async fn serve(table: ServiceTable) -> Result<()> {
    let address = (network::DNS_ADDRESS, 53);
    let socket = UdpSocket::bind(address).await.with_context(|| format!("listen at {}:{}", address.0, address.1))?;
    tokio::spawn(async move {
        let mut buffer = [0; MAX_QUERY_BYTES];
        loop {
            let Ok((length, peer)) = socket.recv_from(&mut buffer).await else { continue };
            if let Some(answer) = answer(&buffer[..length], &table) {
                // If an answer is lost, the client sends its query again.
                let _ = socket.send_to(&answer, peer).await;
            }
        }
    });
    Ok(())
}

/// The answer to a query; `None` if `query` is malformed.
fn answer(query: &[u8], table: &ServiceTable) -> Option<Vec<u8>> {
    let query = Packet::parse(query).ok()?;
    let question = query.questions.first()?.clone();
    let mut answer = Packet::new_reply(query.id());
    answer.set_flags(PacketFlag::AUTHORITATIVE_ANSWER | PacketFlag::RECURSION_AVAILABLE);
    match table.resolve(&question.qname.to_string()) {
        None => *answer.rcode_mut() = RCODE::NameError,
        Some(addresses) if question.qtype == QTYPE::TYPE(TYPE::A) => {
            let record = |address| {
                ResourceRecord::new(question.qname.clone(), CLASS::IN, TTL_SECONDS, RData::A(A::from(address)))
            };
            answer.answers = addresses.into_iter().map(record).collect();
        }
        // The name exists, but has no records of this type, such as AAAA. An error would say that the name is unknown.
        Some(_) => {}
    }
    answer.questions.push(question);
    answer.build_bytes_vec().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use simple_dns::{Name, QCLASS, Question};
    use std::sync::Arc;

    fn ask(name: &str, kind: TYPE) -> (RCODE, usize) {
        let table = ServiceTable::default();
        let service = json!({"metadata": {"name": "a", "namespace": "b"}, "spec": {"clusterIP": "10.96.0.5"}});
        table.set_services(vec![Arc::new(serde_json::from_value(service).expect("a Service"))]);
        let mut packet = Packet::new_query(7);
        let name = Name::new_unchecked(name);
        packet.questions.push(Question::new(name, QTYPE::TYPE(kind), QCLASS::CLASS(CLASS::IN), false));
        let query = packet.build_bytes_vec().expect("a query");
        let answer = answer(&query, &table).expect("an answer");
        let answer = Packet::parse(&answer).expect("well formed");
        assert_eq!((answer.id(), answer.questions.len()), (7, 1));
        (answer.rcode(), answer.answers.len())
    }

    #[test]
    fn service_names_have_ipv4_addresses_and_no_ipv6_addresses() {
        assert_eq!(ask("a.b.svc.cluster.local", TYPE::A), (RCODE::NoError, 1));
        assert_eq!(ask("a.b.svc.cluster.local", TYPE::AAAA), (RCODE::NoError, 0));
        assert_eq!(ask("c.b.svc.cluster.local", TYPE::A), (RCODE::NameError, 0));
        assert_eq!(answer(b"nonsense", &ServiceTable::default()), None);
    }
}
