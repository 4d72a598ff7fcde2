//! Carries the datagrams between the nodes, so that a scenario can drop, delay or lose some of them.
//!
//! Every node has an address here for each other node, which its config names under `[[peer]]` instead of genesis'. A
//! relay is not noticed: QUIC knows its peer by key. Of two nodes either may have dialled, so a direction between them
//! ([`Way`]) has two roads, forth on the dialler's and back on the other's, and one rule that holds on both. Clients and
//! the API server reach the nodes directly. The sockets close when [`Relay`] is dropped; nodes that outlived the load
//! generator (none does: they are on its leash) would then reach each other no more until a start without `[[peer]]`.

mod delayed;
mod lane;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket as BoundSocket};
use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio::task::{AbortHandle, JoinSet};

pub use delayed::DELAYED_MAX;
use lane::{Exit, Lane, nobody_listens};
pub use lane::{Rule, Struck};

/// Nodes that one relay serves, at most: it opens a socket for every ordered pair of them, and one for every client.
pub const NODES_MAX: u16 = 8;
/// Source addresses that are served at one address, at most: the one that was silent longest gives way. (A node dials
/// from where it listens, so that one would do.)
pub const CLIENTS_MAX: usize = 8;
/// The longest datagram there is.
const DATAGRAM_MAX: usize = 65_535;

/// A direction between two nodes, by their places in genesis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Way {
    pub from: usize,
    pub to: usize,
}

impl Way {
    fn back(self) -> Self {
        Self { from: self.to, to: self.from }
    }
}

/// The addresses under which nodes find each other, bound and not served yet.
#[derive(Debug)]
pub struct Fronts {
    fronts: Vec<Front>,
}

#[derive(Debug)]
struct Front {
    /// From the node that dials here to the one that it means.
    way: Way,
    socket: BoundSocket,
    address: SocketAddr,
    /// Where that one listens.
    node: SocketAddr,
}

impl Fronts {
    /// Binds one address on loopback for every ordered pair of nodes.
    pub fn bind(nodes: &[SocketAddr]) -> io::Result<Self> {
        let mut fronts = Vec::new();
        for from in 0..nodes.len() {
            for to in (0..nodes.len()).filter(|to| *to != from) {
                let socket = BoundSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
                socket.set_nonblocking(true)?;
                let address = socket.local_addr()?;
                fronts.push(Front { way: Way { from, to }, socket, address, node: nodes[to] });
            }
        }
        Ok(Self { fronts })
    }

    /// What node `from` uses as the address of every other node, with the place of that one.
    pub fn of(&self, from: usize) -> impl Iterator<Item = (usize, SocketAddr)> {
        self.fronts.iter().filter(move |front| front.way.from == from).map(|front| (front.way.to, front.address))
    }
}

/// Every direction between nodes, to be harmed and healed.
#[derive(Debug)]
pub struct Lanes {
    lanes: BTreeMap<Way, Arc<Lane>>,
}

impl Lanes {
    /// Cuts some directions before anything goes there, until a strike on them is dropped.
    pub fn cut(&self, ways: &[Way]) {
        ways.iter().filter_map(|way| self.lanes.get(way)).for_each(|lane| lane.set(Rule::Drop));
    }

    /// Sets a rule on some directions, until the strike is dropped. They are the scenario's, which was checked.
    pub fn strike(&self, ways: &[Way], rule: Rule) -> Strike {
        let lane = |way: &Way| Arc::clone(self.lanes.get(way).expect("a checked scenario names nodes that are there"));
        let lanes: Vec<_> = ways.iter().map(lane).collect();
        let before = total(&lanes);
        lanes.iter().for_each(|lane| lane.set(rule));
        Strike { lanes, before }
    }
}

/// A rule that holds on some directions. However this ends, they then let everything pass again.
#[derive(Debug)]
pub struct Strike {
    lanes: Vec<Arc<Lane>>,
    before: Struck,
}

impl Strike {
    /// What it struck so far.
    pub fn struck(&self) -> Struck {
        let (now, before) = (total(&self.lanes), self.before);
        Struck {
            dropped: now.dropped - before.dropped,
            delayed: now.delayed - before.delayed,
            overflowed: now.overflowed - before.overflowed,
        }
    }
}

impl Drop for Strike {
    fn drop(&mut self) {
        self.lanes.iter().for_each(|lane| lane.set(Rule::Pass));
    }
}

fn total(lanes: &[Arc<Lane>]) -> Struck {
    lanes.iter().fold(Struck::default(), |sum, lane| sum.plus(lane.struck()))
}

/// A relay at work.
#[derive(Debug)]
pub struct Relay {
    lanes: Arc<Lanes>,
    /// None of them ends by itself unless something is wrong.
    tasks: JoinSet<io::Result<()>>,
}

impl Relay {
    /// Serves what was bound. Chance in delay and loss follows `seed`.
    pub fn start(fronts: Fronts, seed: u64) -> io::Result<Self> {
        let lane = |front: &Front| (front.way, Arc::new(Lane::new(seed, front.way)));
        let lanes: BTreeMap<Way, Arc<Lane>> = fronts.fronts.iter().map(lane).collect();
        let mut tasks = JoinSet::new();
        for lane in lanes.values() {
            let lane = Arc::clone(lane);
            tasks.spawn(async move { lane.release().await });
        }
        for front in fronts.fronts {
            let (forth, back) = (Arc::clone(&lanes[&front.way]), Arc::clone(&lanes[&front.way.back()]));
            let socket = Arc::new(UdpSocket::from_std(front.socket)?);
            tasks.spawn(serve(socket, front.node, forth, back));
        }
        Ok(Self { lanes: Arc::new(Lanes { lanes }), tasks })
    }

    pub fn lanes(&self) -> Arc<Lanes> {
        Arc::clone(&self.lanes)
    }

    /// What went wrong so far, in words. Each is told once.
    pub fn failures(&mut self) -> Vec<String> {
        let ended = std::iter::from_fn(|| self.tasks.try_join_next());
        let failed = ended.map(|ended| match ended {
            Ok(Ok(())) => "a task of the relay between the nodes ended".into(),
            Ok(Err(error)) => format!("the relay between the nodes failed: {error}"),
            Err(error) => format!("a task of the relay between the nodes ended unexpectedly: {error}"),
        });
        failed.collect()
    }
}

/// Carries what comes to one address, and the answers, without end.
async fn serve(front: Arc<UdpSocket>, node: SocketAddr, forth: Arc<Lane>, back: Arc<Lane>) -> io::Result<()> {
    let mut clients = Clients { front: Arc::clone(&front), node, back, clients: Vec::new(), readers: JoinSet::new() };
    let mut datagram = vec![0; DATAGRAM_MAX];
    loop {
        tokio::select! {
            received = front.recv_from(&mut datagram) => {
                let (length, source) = received?;
                let socket = clients.upstream(source).await?;
                forth.carry(&datagram[..length], &Exit { socket, to: None }).await?;
            }
            Some(ended) = clients.readers.join_next() => match ended {
                Ok(read) => read?,
                // It gave way to another client.
                Err(error) if error.is_cancelled() => {}
                Err(error) => return Err(io::Error::other(error)),
            },
        }
    }
}

/// Who sends to one address, each with a socket of its own towards the node, so that answers find their way back.
#[derive(Debug)]
struct Clients {
    front: Arc<UdpSocket>,
    node: SocketAddr,
    /// The direction of the answers.
    back: Arc<Lane>,
    /// The one heard last stands last.
    clients: Vec<Client>,
    readers: JoinSet<io::Result<()>>,
}

#[derive(Debug)]
struct Client {
    source: SocketAddr,
    upstream: Arc<UdpSocket>,
    reader: AbortHandle,
}

impl Clients {
    /// The socket of the client at `source`, made if it is new.
    async fn upstream(&mut self, source: SocketAddr) -> io::Result<Arc<UdpSocket>> {
        let client = match self.clients.iter().position(|client| client.source == source) {
            Some(place) => self.clients.remove(place),
            None => {
                if self.clients.len() >= CLIENTS_MAX {
                    self.clients.remove(0).reader.abort();
                }
                self.admit(source).await?
            }
        };
        let upstream = Arc::clone(&client.upstream);
        self.clients.push(client);
        Ok(upstream)
    }

    async fn admit(&mut self, source: SocketAddr) -> io::Result<Client> {
        let upstream = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        upstream.connect(self.node).await?;
        let upstream = Arc::new(upstream);
        let exit = Exit { socket: Arc::clone(&self.front), to: Some(source) };
        let reader = self.readers.spawn(answer(Arc::clone(&upstream), exit, Arc::clone(&self.back)));
        Ok(Client { source, upstream, reader })
    }
}

/// Carries a node's answers to one client, without end.
async fn answer(upstream: Arc<UdpSocket>, exit: Exit, back: Arc<Lane>) -> io::Result<()> {
    let mut datagram = vec![0; DATAGRAM_MAX];
    loop {
        match upstream.recv(&mut datagram).await {
            Ok(length) => back.carry(&datagram[..length], &exit).await?,
            Err(error) if nobody_listens(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THERE: Way = Way { from: 0, to: 1 };

    /// Two nodes with a socket each, and the addresses under which they find each other.
    struct Pair {
        relay: Relay,
        nodes: [UdpSocket; 2],
        fronts: [SocketAddr; 2],
    }

    impl Pair {
        async fn new() -> Self {
            let node = async || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let nodes = [node().await, node().await];
            let fronts = Fronts::bind(&[nodes[0].local_addr().unwrap(), nodes[1].local_addr().unwrap()]).unwrap();
            let addresses = [0, 1].map(|from| fronts.of(from).next().unwrap().1);
            Self { relay: Relay::start(fronts, 2016).unwrap(), nodes, fronts: addresses }
        }

        /// Sends from one node to the other as the dialler.
        async fn send(&self, from: usize, text: &str) {
            self.nodes[from].send_to(text.as_bytes(), self.fronts[from]).await.unwrap();
        }

        async fn receive(&self, node: usize) -> (String, SocketAddr) {
            let mut bytes = [0; 64];
            let (length, source) = self.nodes[node].recv_from(&mut bytes).await.unwrap();
            (String::from_utf8_lossy(&bytes[..length]).into_owned(), source)
        }
    }

    #[tokio::test]
    async fn datagrams_pass_both_ways_whoever_dialled() {
        let mut pair = Pair::new().await;
        for dialler in [0, 1] {
            let other = 1 - dialler;
            pair.send(dialler, "question").await;
            let (text, source) = pair.receive(other).await;
            assert_eq!(text, "question");
            pair.nodes[other].send_to(b"answer", source).await.unwrap();
            assert_eq!(pair.receive(dialler).await, ("answer".into(), pair.fronts[dialler]));
        }
        assert_eq!(pair.relay.failures(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_direction_is_cut_on_both_roads_and_the_other_one_is_not() {
        let pair = Pair::new().await;
        pair.send(1, "by the road of node 1").await;
        let (_, road) = pair.receive(0).await;
        let strike = pair.relay.lanes().strike(&[THERE], Rule::Drop);
        pair.send(0, "dropped").await;
        pair.nodes[0].send_to(b"dropped too", road).await.unwrap();
        pair.send(1, "heard").await;
        assert_eq!(pair.receive(0).await.0, "heard");
        while strike.struck().dropped < 2 {
            tokio::task::yield_now().await;
        }
        drop(strike);
        // Nothing that was dropped arrives before what is sent after the healing.
        pair.send(0, "healed").await;
        assert_eq!(pair.receive(1).await.0, "healed");
        pair.nodes[0].send_to(b"healed too", road).await.unwrap();
        assert_eq!(pair.receive(1).await.0, "healed too");
    }

    #[tokio::test]
    async fn what_is_delayed_arrives_also_after_the_end_of_the_strike() {
        let pair = Pair::new().await;
        let strike = pair.relay.lanes().strike(&[THERE], Rule::Delay { ms: 1, jitter_ms: 1 });
        pair.send(0, "slow").await;
        while strike.struck().delayed < 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(strike.struck(), Struck { delayed: 1, ..Struck::default() });
        drop(strike);
        assert_eq!(pair.receive(1).await.0, "slow");
    }

    #[tokio::test]
    async fn a_node_that_is_down_is_found_again_when_it_is_back() {
        let mut pair = Pair::new().await;
        let gone = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = pair.nodes[1].local_addr().unwrap();
        drop(std::mem::replace(&mut pair.nodes[1], gone));
        pair.send(0, "to nobody").await;
        pair.nodes[1] = UdpSocket::bind(address).await.unwrap();
        // A refusal that is still on its way may cost a datagram, so it is asked until it is heard.
        let heard = loop {
            pair.send(0, "to somebody").await;
            let mut bytes = [0; 64];
            match pair.nodes[1].try_recv(&mut bytes) {
                Ok(length) => break String::from_utf8_lossy(&bytes[..length]).into_owned(),
                Err(_) => tokio::task::yield_now().await,
            }
        };
        assert!(heard.starts_with("to "), "{heard}");
        assert_eq!(pair.relay.failures(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn the_client_that_was_silent_longest_gives_way_to_one_too_many() {
        let pair = Pair::new().await;
        let front = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
        let (node, back) = (pair.nodes[1].local_addr().unwrap(), Arc::new(Lane::new(1, THERE.back())));
        let mut clients = Clients { front, node, back, clients: Vec::new(), readers: JoinSet::new() };
        let source = |port: usize| SocketAddr::from((Ipv4Addr::LOCALHOST, port as u16));
        let first = clients.upstream(source(1)).await.unwrap();
        for port in 2..=CLIENTS_MAX {
            clients.upstream(source(port)).await.unwrap();
        }
        assert!(Arc::ptr_eq(&first, &clients.upstream(source(1)).await.unwrap()), "it is known");
        clients.upstream(source(CLIENTS_MAX + 1)).await.unwrap();
        assert_eq!(clients.clients.len(), CLIENTS_MAX);
        let known = |port| clients.clients.iter().any(|client| client.source == source(port));
        assert!(known(1) && !known(2) && known(3) && known(CLIENTS_MAX + 1));
        let gone = clients.readers.join_next().await.unwrap();
        assert!(gone.unwrap_err().is_cancelled());
    }
}
