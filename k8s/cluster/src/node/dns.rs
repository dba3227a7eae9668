//! The cluster's name server. It resolves the names of Services over UDP.

use super::service_table::ServiceTable;
use crate::network;
use anyhow::{Context, Result};
use simple_dns::rdata::RData;
use simple_dns::{CLASS, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};
use std::net::{IpAddr, SocketAddr};
use tokio::net::UdpSocket;

/// The longest query that is read, in bytes.
const MAX_QUERY_BYTES: usize = 1500;

/// The seconds for which a client may cache an answer. CoreDNS has the same value for clusters.
const TTL_SECONDS: u32 = 5;

/// Starts a task that answers queries at port [`network::DNS_PORT`] of the address `node`.
///
/// # Errors
/// If the port is taken.
pub(super) async fn serve(table: ServiceTable, node: IpAddr) -> Result<()> {
    let address = SocketAddr::from((node, network::DNS_PORT));
    let socket = UdpSocket::bind(address).await.with_context(|| format!("listen at {address}"))?;
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
        // If the name exists, but has no records of this type, the answer is empty. An error would say that the name is
        // unknown.
        Some(addresses) => {
            let data = addresses.into_iter().filter_map(|address| match address {
                IpAddr::V4(address) if question.qtype == QTYPE::TYPE(TYPE::A) => Some(RData::A(address.into())),
                IpAddr::V6(address) if question.qtype == QTYPE::TYPE(TYPE::AAAA) => Some(RData::AAAA(address.into())),
                IpAddr::V4(_) | IpAddr::V6(_) => None,
            });
            let record = |data| ResourceRecord::new(question.qname.clone(), CLASS::IN, TTL_SECONDS, data);
            answer.answers = data.map(record).collect();
        }
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
        let service = |name: &str, address: &str| {
            let service = json!({"metadata": {"name": name, "namespace": "b"}, "spec": {"clusterIP": address}});
            Arc::new(serde_json::from_value(service).expect("a Service"))
        };
        table.set_services(vec![service("a", "10.96.0.5"), service("six", "fd00:10:96::5")]);
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
    fn service_names_have_addresses_of_their_own_kind_only() {
        assert_eq!(ask("a.b.svc.cluster.local", TYPE::A), (RCODE::NoError, 1));
        assert_eq!(ask("a.b.svc.cluster.local", TYPE::AAAA), (RCODE::NoError, 0));
        assert_eq!(ask("six.b.svc.cluster.local", TYPE::A), (RCODE::NoError, 0));
        assert_eq!(ask("six.b.svc.cluster.local", TYPE::AAAA), (RCODE::NoError, 1));
        assert_eq!(ask("c.b.svc.cluster.local", TYPE::A), (RCODE::NameError, 0));
        assert_eq!(answer(b"nonsense", &ServiceTable::default()), None);
    }
}
