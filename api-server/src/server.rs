//! Serves HTTP/1.1 and HTTP/2 on one address: bounded connections, header timeouts, and a graceful end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use crate::config::Limits;

/// How long open requests may take once the server stops.
const DRAIN: Duration = Duration::from_secs(10);
/// After a failed accept (out of descriptors, say) the next one waits so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Bytes of a request's headers, at most.
const HEADER_BYTES_MAX: usize = 16 << 10;
/// Requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;

/// A bound address, not served yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    limits: Limits,
}

impl Server {
    /// Binds the address.
    pub async fn bind(address: SocketAddr, limits: Limits) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await?, limits })
    }

    /// The bound address, with the port that the system chose if it was asked to.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stopping` becomes true; then finishes open requests.
    pub async fn serve(self, router: Router, mut stopping: watch::Receiver<bool>) {
        let connections = Arc::new(Semaphore::new(self.limits.connections_max));
        let graceful = GracefulShutdown::new();
        let builder = builder(&self.limits);
        loop {
            // At the limit new connections wait in the kernel's queue, which is bounded too.
            let slot = tokio::select! {
                slot = Arc::clone(&connections).acquire_owned() => slot,
                _ = stopping.changed() => break,
            };
            let Ok(slot) = slot else { break };
            let stream = tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "a connection is not accepted");
                        sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
                _ = stopping.changed() => break,
            };
            prepare(&stream);
            let asked = Arc::new(AtomicBool::new(false));
            let (service, is_asked) = (TowerToHyperService::new(router.clone()), Arc::clone(&asked));
            let service = service_fn(move |request: Request<Incoming>| {
                is_asked.store(true, Ordering::Relaxed);
                service.call(request)
            });
            let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
            let connection = graceful.watch(connection);
            let first_request = self.limits.header_timeout();
            tokio::spawn(async move {
                tokio::select! {
                    ended = connection => if let Err(error) = ended {
                        tracing::debug!(%error, "a connection failed");
                    },
                    () = silence(&asked, first_request) => tracing::debug!("a connection asked nothing in time"),
                }
                drop(slot);
            });
        }
        drop(self.listener);
        if timeout(DRAIN, graceful.shutdown()).await.is_err() {
            tracing::warn!("some requests are cut off");
        }
    }
}

/// Ends if nothing was asked within `limit`. Which version of HTTP a client speaks is found out without a timer, so that
/// one who sends nothing, or only what both begin with, would stay for ever.
async fn silence(asked: &AtomicBool, limit: Duration) {
    sleep(limit).await;
    if asked.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}

fn prepare(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection keeps its delay");
    }
}

fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout())
        .max_buf_size(HEADER_BYTES_MAX.max(8 << 10))
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX as u32)
        .keep_alive_interval(Duration::from_secs(20));
    builder
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// No test waits so long unless it fails.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// A server that gives requests 100 ms to arrive, and takes longer to answer one. It runs until the sender is gone.
    async fn start() -> (SocketAddr, watch::Sender<bool>) {
        let limits = Limits { header_timeout_ms: 100, ..Limits::default() };
        let server = Server::bind("127.0.0.1:0".parse().unwrap(), limits).await.unwrap();
        let (address, stop) = (server.local_address().unwrap(), watch::Sender::new(false));
        let slow = get(|| async {
            sleep(Duration::from_millis(300)).await;
            "done"
        });
        tokio::spawn(server.serve(Router::new().route("/", slow), stop.subscribe()));
        (address, stop)
    }

    /// What the server says until it closes.
    async fn exchange(address: SocketAddr, sent: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let mut said = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("it never closes").ok();
        said
    }

    #[tokio::test]
    async fn a_client_that_asks_nothing_is_left() {
        let (address, _stop) = start().await;
        for sent in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n", b"GET / HTTP/1.1\r\nhost"] {
            let said = exchange(address, sent).await;
            assert!(!said.starts_with(b"HTTP/1.1 200"), "{sent:?}");
        }
    }

    #[tokio::test]
    async fn an_answer_may_take_longer_than_a_question() {
        let (address, _stop) = start().await;
        let said = exchange(address, b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        assert!(said.starts_with(b"HTTP/1.1 200") && said.ends_with(b"done"));
    }
}
