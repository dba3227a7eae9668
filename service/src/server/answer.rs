//! The requests of one connection and their answers, as far as the connection's limits need them. An answer counts until
//! hyper has released its memory. Knows nothing of sockets.

use super::activity::Activity;
use crate::body::BodyIsRead;
use crate::respond::{self, Reply};
use crate::trace::TraceContext;
use crate::upgrade::Upgrade;
use crate::wire::{Code, RequestError};
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONNECTION, HeaderValue, TRANSFER_ENCODING};
use hyper::{HeaderMap, Method, Request, Response, Version};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// The most bytes of answers that a client may leave unread on an HTTP/2 connection. Further requests are refused until
/// it reads.
const MAX_UNREAD_BYTES: usize = 1 << 20;

/// The most requests that are no POST, such as `GET /metrics`, that an HTTP/2 connection may have at once. Their answers
/// are large and cost a client nothing, and no client needs many of them at once.
const MAX_READS: usize = 8;

/// A request from its arrival until its answer is released.
#[derive(Debug)]
pub(super) struct OpenRequest {
    activity: Arc<Activity>,
    is_http2: bool,
    is_read: bool,
    /// The bytes of an HTTP/2 answer; `None` until it is ready.
    answer_bytes: Option<usize>,
}

impl OpenRequest {
    /// Counts a request that has arrived on the connection of `activity`. The second value is the answer to a request
    /// that the server refuses before it looks at the path.
    pub(super) fn begin<B: Body>(activity: Arc<Activity>, request: &Request<B>) -> (Self, Option<Reply>) {
        let is_http2 = request.version() == Version::HTTP_2;
        let is_read = request.method() != Method::POST;
        let has_unread =
            is_http2 && (activity.unsent_bytes() >= MAX_UNREAD_BYTES || (is_read && activity.reads() >= MAX_READS));
        activity.begin_request(is_read);
        let refusal = if has_unread {
            let message = "too many answers on this connection are unread; read them before the next request";
            Some(RequestError::new(Code::Overloaded, message).retry_after(Duration::from_secs(1)))
        // A body whose length hyper knows has no transfer coding.
        } else if !is_http2 && request.body().size_hint().exact().is_none() && !has_known_coding(request.headers()) {
            Some(RequestError::new(Code::BadRequest, "the only transfer coding that this server knows is chunked"))
        } else {
            None
        };
        let refusal = refusal.map(|error| {
            let trace = TraceContext::from_headers(request.headers());
            let mut reply = respond::error(&error, &trace.request_id());
            trace.write(reply.headers_mut());
            if !is_http2 {
                close_after(&mut reply);
            }
            reply
        });
        (Self { activity, is_http2, is_read, answer_bytes: None }, refusal)
    }

    /// Counts a plain request that has arrived on the connection of `activity`.
    pub(super) fn begin_plain(activity: Arc<Activity>) -> Self {
        activity.begin_request(false);
        Self { activity, is_http2: false, is_read: false, answer_bytes: None }
    }

    /// The response with this answer, whose body ends the request.
    pub(super) fn answer(mut self, mut reply: Reply) -> Response<AnswerBody> {
        // hyper closes the connection after an answer before the end of the body. Without the header, a client would
        // send its next request on it.
        let is_left_unread = self.activity.is_mid_request() && reply.extensions().get::<BodyIsRead>().is_none();
        if !self.is_http2 && (self.activity.is_aged() || is_left_unread) {
            close_after(&mut reply);
        }
        if !self.is_http2
            && let Some(upgrade) = reply.extensions_mut().remove::<Upgrade>()
        {
            self.activity.accept(upgrade);
        }
        reply.map(|body| {
            let Some(bytes) = body.into_inner().filter(|bytes| !bytes.is_empty()) else {
                return AnswerBody { bytes: None, _request: None };
            };
            if self.is_http2 {
                self.answer_bytes = Some(bytes.len());
                self.activity.answer_ready(bytes.len(), Instant::now());
                // The memory of an HTTP/2 answer is held until the client's window has room for it, so the owner of
                // that memory ends the request.
                AnswerBody { bytes: Some(Bytes::from_owner(UnsentAnswer { bytes, _request: self })), _request: None }
            } else {
                AnswerBody { bytes: Some(bytes), _request: Some(self) }
            }
        })
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let now = Instant::now();
        if let Some(bytes) = self.answer_bytes {
            self.activity.answer_released(bytes, now);
        }
        self.activity.end_request(self.is_read, now);
    }
}

/// Tells an HTTP/1.1 client that the connection closes after this answer.
pub(super) fn close_after(reply: &mut Reply) {
    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
}

/// Whether the body of an HTTP/1.1 request has no transfer coding but `chunked`. hyper would take `gzip, chunked` for
/// `chunked`, and a proxy in front could see another body than this server (RFC 9112, 6.1).
fn has_known_coding(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

/// The memory of an answer that is not yet sent.
struct UnsentAnswer {
    bytes: Bytes,
    _request: OpenRequest,
}

impl AsRef<[u8]> for UnsentAnswer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The body of a response. It has one piece.
#[derive(Debug)]
pub(super) struct AnswerBody {
    bytes: Option<Bytes>,
    /// The request, which ends with this body.
    _request: Option<OpenRequest>,
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        // hyper drops an HTTP/1.1 body when it has taken the bytes, and then records itself whether they are written.
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::super::meters::ConnectionMeters;
    use super::*;
    use http_body_util::Empty;

    #[test]
    fn chunked_is_the_only_transfer_coding() {
        for (codings, is_known) in [
            (&[][..], true),
            (&["chunked"], true),
            (&[" Chunked "], true),
            (&["gzip, chunked"], false),
            (&["chunked, chunked"], false),
            (&["chunked", "chunked"], false),
            (&["identity"], false),
            (&[""], false),
        ] {
            let mut headers = HeaderMap::new();
            for coding in codings {
                headers.append(TRANSFER_ENCODING, HeaderValue::from_str(coding).expect("a header value"));
            }
            assert_eq!(has_known_coding(&headers), is_known, "{codings:?}");
        }
    }

    #[test]
    fn an_http2_connection_with_unread_answers_gets_no_more_of_them() {
        let activity = Arc::new(Activity::new(Instant::now(), Arc::new(ConnectionMeters::new("test"))));
        let begin = |method: Method, version: Version| {
            let mut request = Request::new(Empty::<Bytes>::new());
            (*request.method_mut(), *request.version_mut()) = (method, version);
            OpenRequest::begin(activity.clone(), &request)
        };
        let answer = |length: usize, request: OpenRequest| {
            request.answer(respond::text("text/plain", "x".repeat(length))).into_body()
        };
        let mut unread: Vec<_> = (0..MAX_READS).map(|_| answer(10, begin(Method::GET, Version::HTTP_2).0)).collect();
        let is_refused = |method, version| begin(method, version).1.is_some();
        assert!(is_refused(Method::GET, Version::HTTP_2));
        assert!(!is_refused(Method::POST, Version::HTTP_2), "predictions have no such limit");
        unread.pop();
        assert!(!is_refused(Method::GET, Version::HTTP_2));
        unread.push(answer(MAX_UNREAD_BYTES, begin(Method::POST, Version::HTTP_2).0));
        assert!(is_refused(Method::POST, Version::HTTP_2));
        assert!(!is_refused(Method::POST, Version::HTTP_11), "HTTP/1.1 has one answer at a time");
        unread.clear();
        assert!(!is_refused(Method::POST, Version::HTTP_2));
        assert_eq!((activity.reads(), activity.unsent_bytes()), (0, 0));
    }
}
