//! Resolves the names of Services for pods, over UDP.

use super::directory::Directory;
use crate::network;
use anyhow::{Context, Result};
use simple_dns::rdata::{A, RData};
use simple_dns::{CLASS, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};
use tokio::net::UdpSocket;

/// Longest question that is read, bytes.
const LONGEST: usize = 1500;

/// For how long an answer holds, seconds (as CoreDNS has it for clusters).
const HOLDS: u32 = 5;

/// Answers until the cluster ends.
///
/// # Errors
/// When it cannot listen.
pub(super) async fn serve(directory: Directory) -> Result<()> {
    let socket = UdpSocket::bind((network::RESOLVER, 53)).await.context("listen for names")?;
    tokio::spawn(async move {
        let mut buffer = [0; LONGEST];
        loop {
            let Ok((length, peer)) = socket.recv_from(&mut buffer).await else { continue };
            if let Some(answer) = answer(&buffer[..length], &directory) {
                let _gone = socket.send_to(&answer, peer).await;
            }
        }
    });
    Ok(())
}

/// The answer to a question; nothing to what is none.
fn answer(question: &[u8], directory: &Directory) -> Option<Vec<u8>> {
    let asked = Packet::parse(question).ok()?;
    let first = asked.questions.first()?.clone();
    let mut answer = Packet::new_reply(asked.id());
    answer.set_flags(PacketFlag::AUTHORITATIVE_ANSWER | PacketFlag::RECURSION_AVAILABLE);
    match directory.resolve(&first.qname.to_string()) {
        None => *answer.rcode_mut() = RCODE::NameError,
        Some(addresses) if first.qtype == QTYPE::TYPE(TYPE::A) => {
            let record =
                |address| ResourceRecord::new(first.qname.clone(), CLASS::IN, HOLDS, RData::A(A::from(address)));
            answer.answers = addresses.into_iter().map(record).collect();
        }
        // The name is there, and has nothing of this kind.
        Some(_) => {}
    }
    answer.questions.push(first);
    answer.build_bytes_vec().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use simple_dns::{Name, QCLASS, Question};
    use std::sync::Arc;

    fn ask(name: &str, kind: TYPE) -> (RCODE, usize) {
        let directory = Directory::default();
        let service = json!({"metadata": {"name": "a", "namespace": "b"}, "spec": {"clusterIP": "10.96.0.5"}});
        directory.set_services(vec![Arc::new(serde_json::from_value(service).expect("a Service"))]);
        let mut packet = Packet::new_query(7);
        let name = Name::new_unchecked(name);
        packet.questions.push(Question::new(name, QTYPE::TYPE(kind), QCLASS::CLASS(CLASS::IN), false));
        let question = packet.build_bytes_vec().expect("a question");
        let answered = answer(&question, &directory).expect("an answer");
        let answered = Packet::parse(&answered).expect("well formed");
        assert_eq!((answered.id(), answered.questions.len()), (7, 1));
        (answered.rcode(), answered.answers.len())
    }

    #[test]
    fn names_have_addresses_of_version_four_only() {
        assert_eq!(ask("a.b.svc.cluster.local", TYPE::A), (RCODE::NoError, 1));
        assert_eq!(ask("a.b.svc.cluster.local", TYPE::AAAA), (RCODE::NoError, 0));
        assert_eq!(ask("c.b.svc.cluster.local", TYPE::A), (RCODE::NameError, 0));
        assert_eq!(answer(b"nonsense", &Directory::default()), None);
    }
}
