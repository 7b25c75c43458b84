//! A small HTTP/1.1 responder: `GET /metrics` and `GET /healthz`, one request per connection, nothing else.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::metrics::Metrics;

/// Longest request head; a scraper's is a few hundred bytes.
const REQUEST_BYTES_MAX: usize = 8 << 10;

/// How long one connection may take in all, so that a stalled client cannot shut the others out for long.
const REQUEST_SECONDS_MAX: Duration = Duration::from_secs(2);

/// Serves until it is dropped.
pub(super) struct MetricsServer {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl MetricsServer {
    /// Serves `metrics` on `address`, `127.0.0.1:0` for any free port.
    pub(super) fn start(address: &str, metrics: Arc<Metrics>) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::Builder::new().name("metrics".into()).spawn(move || {
            for connection in listener.incoming() {
                if stopped.load(SeqCst) {
                    return;
                }
                // A client that breaks off is its own problem.
                let _ = connection.and_then(|connection| answer(connection, &metrics));
            }
        })?;
        Ok(Self { address, stop, thread: Some(thread) })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        // Wakes the thread; if nobody can connect any more it has ended already.
        let woken = TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            let _ = thread.join();
        }
    }
}

fn answer(mut connection: TcpStream, metrics: &Metrics) -> io::Result<()> {
    connection.set_write_timeout(Some(REQUEST_SECONDS_MAX))?;
    let (status, kind, body) = match read_head(&mut connection, Instant::now() + REQUEST_SECONDS_MAX)? {
        None => ("431 Request Header Fields Too Large", "text/plain", "the request is too long\n".into()),
        Some(head) => match request_target(&head) {
            Some("/metrics") => ("200 OK", prometheus::TEXT_FORMAT, metrics.encode()),
            Some("/healthz") => ("200 OK", "text/plain", "ok\n".into()),
            Some(_) => ("404 Not Found", "text/plain", "there are /metrics and /healthz\n".into()),
            None => ("405 Method Not Allowed", "text/plain", "only GET is allowed\n".into()),
        },
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    connection.write_all(head.as_bytes())?;
    connection.write_all(body.as_bytes())
}

/// Reads up to the blank line that ends the request's head; `None` if it does not end within the limit.
fn read_head(connection: &mut TcpStream, deadline: Instant) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        connection.set_read_timeout(Some(left))?;
        let len = connection.read(&mut chunk)?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&chunk[..len]);
        if head.len() > REQUEST_BYTES_MAX {
            return Ok(None);
        }
    }
    Ok(Some(head))
}

/// The path of a GET request, without its query.
fn request_target(head: &[u8]) -> Option<&str> {
    let line = std::str::from_utf8(head.split(|&byte| byte == b'\r').next()?).ok()?;
    let (target, _version) = line.strip_prefix("GET ")?.split_once(" HTTP/1.")?;
    target.split('?').next()
}

/// Fetches a page as a scraper would.
#[cfg(test)]
pub(super) fn get(address: SocketAddr, path: &str) -> io::Result<String> {
    request(address, format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
}

#[cfg(test)]
fn request(address: SocketAddr, bytes: &[u8]) -> io::Result<String> {
    let mut connection = TcpStream::connect(address)?;
    connection.write_all(bytes)?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::gpus::Gpus;
    use crate::runtime::tests::setup;

    fn server() -> MetricsServer {
        MetricsServer::start("127.0.0.1:0", Arc::new(Metrics::new(&setup(0, 1), vec![], Gpus::of_this_machine())))
            .unwrap()
    }

    #[test]
    fn only_the_two_pages_are_served() {
        let server = server();
        let status = |bytes: &[u8]| request(server.address(), bytes).unwrap()[9..12].to_owned();
        assert_eq!(status(b"GET /healthz HTTP/1.1\r\n\r\n"), "200");
        assert_eq!(status(b"GET /metrics?x=1 HTTP/1.0\r\n\r\n"), "200");
        assert_eq!(status(b"GET /etc/passwd HTTP/1.1\r\n\r\n"), "404");
        assert_eq!(status(b"POST /metrics HTTP/1.1\r\n\r\n"), "405");
        assert_eq!(status(b"\xff\xfe\r\n\r\n"), "405");
    }

    #[test]
    fn a_request_without_end_is_cut_off() {
        let server = server();
        let mut connection = TcpStream::connect(server.address()).unwrap();
        connection.write_all(&[b'x'; REQUEST_BYTES_MAX + 1]).unwrap();
        let mut answer = [0; 12];
        connection.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 431");
    }

    #[test]
    fn dropping_the_server_frees_its_port() {
        let server = server();
        let address = server.address();
        drop(server);
        assert!(TcpStream::connect(address).is_err());
    }
}
