//! Snapshots among peers of which some lie: whatever they send, the state that comes out is the certified one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cluster;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use cluster::{ACCOUNTS, Cluster, Disk, TOKEN, payment, validator_key};
use zeni_consensus::schedule::Schedule;
use zeni_consensus::snapshot::{
    Assembled, Assembly, FalseSnapshot, Fetch, IN_FLIGHT_PER_PEER_MAX, MANIFEST_BYTES_MAX, Manifest, PACE_BYTES_MIN,
    PACE_MS, PAGE_BYTES_MAX, PAGES_MAX, PageName, PageWriter, Part, WINDOW_PAGES, page_hash,
};
use zeni_consensus::{Millis, Mode, SafetyRecord};
use zeni_ledger::encoding::{DecodeError, Encoder};
use zeni_ledger::{
    Account, AccountId, Balance, Block, BlockHeader, CommitCertificate, FinalBlock, Genesis, State, StateRoot, TokenId,
    ValidatorIndex,
};

const ONE: ValidatorIndex = ValidatorIndex(0);
const TWO: ValidatorIndex = ValidatorIndex(1);
const THREE: ValidatorIndex = ValidatorIndex(2);
/// When no time passes.
const NOW: Millis = Millis(0);

/// What a validator has at a final block.
#[derive(Clone)]
struct Source {
    genesis: Arc<Genesis>,
    first_state: State,
    certificate: CommitCertificate,
    blocks: Vec<Arc<Block>>,
    accounts: Vec<Account>,
}

/// A manifest and the pages that it names.
#[derive(Clone)]
struct Snapshot {
    manifest: Manifest,
    pages: BTreeMap<PageName, Vec<u8>>,
}

/// A cluster in which every account paid something and the payments are final, and what its first validator has there.
fn paid() -> (Cluster, Source) {
    let mut cluster = Cluster::start(3);
    cluster.run_slots(2);
    let genesis = cluster.genesis.clone();
    for round in 0..4 {
        let payments: Vec<_> =
            (1..ACCOUNTS).map(|from| payment(&genesis, from, 0, round, u64::from(from) + round)).collect();
        cluster.ask((round % 3) as u16, &payments);
        cluster.run_slots(2);
    }
    cluster.run_slots(3);
    let source = source(&mut cluster);
    (cluster, source)
}

fn source(cluster: &mut Cluster) -> Source {
    let node = &mut cluster.nodes[0];
    let delta = node.core.as_mut().unwrap().checkpoint(&node.disk).unwrap().unwrap();
    assert!(delta.height > 5 && delta.accounts.len() == usize::from(ACCOUNTS));
    let certificates = &node.disk.certificates;
    let certificate = certificates.iter().find(|certificate| certificate.block.id == delta.to).unwrap().clone();
    let mut blocks = Vec::new();
    let mut current = delta.to;
    while let Some(block) = node.disk.block_ids.get(&current) {
        blocks.push(block.clone());
        current = block.header.parent;
    }
    blocks.reverse();
    let mut accounts = delta.accounts;
    accounts.sort_by_key(Account::id);
    let first_state = cluster.genesis.state(&cluster.file).unwrap();
    Source { genesis: cluster.genesis.clone(), first_state, certificate, blocks, accounts }
}

impl Source {
    /// A snapshot with a page for every block and every account, so that there are many.
    fn cut_small(&self) -> Snapshot {
        self.cut(1)
    }

    /// A snapshot with so many records in every page.
    fn cut(&self, records: usize) -> Snapshot {
        let mut pages = BTreeMap::new();
        for (number, blocks) in self.blocks.chunks(records).enumerate() {
            let mut page = PageWriter::default();
            blocks.iter().for_each(|block| assert_eq!(page.block(block), None));
            pages.insert(PageName { part: Part::Blocks, number: number as u32 }, page.finish().unwrap());
        }
        for (number, accounts) in self.accounts.chunks(records).enumerate() {
            let mut page = PageWriter::default();
            for account in accounts {
                let mut content = Encoder::default();
                account.encode_content(&mut content);
                assert_eq!(page.account(&account.id(), content.as_bytes()), None);
            }
            pages.insert(PageName { part: Part::Accounts, number: number as u32 }, page.finish().unwrap());
        }
        let hashes =
            |part: Part| pages.iter().filter(move |(name, _)| name.part == part).map(|(_, page)| page_hash(page));
        let manifest = Manifest {
            certificate: self.certificate.clone(),
            blocks: hashes(Part::Blocks).collect(),
            accounts: hashes(Part::Accounts).collect(),
        };
        Snapshot { manifest, pages }
    }

    fn fetch(&self) -> Fetch {
        Fetch::new(self.genesis.clone())
    }

    fn assembly(&self, manifest: Manifest) -> Assembly {
        Assembly::new(self.genesis.clone(), self.first_state.clone(), manifest)
    }

    /// With one unit more in one account.
    fn enriched(&self) -> Self {
        let mut lie = self.clone();
        let units = lie.accounts[3].balance(TOKEN).units();
        assert!(lie.accounts[3].set_balance(TOKEN, Balance::new(units + 1)));
        lie
    }
}

/// Takes every page of a transfer from `served`, and what comes out of them.
fn assemble(
    source: &Source,
    fetch: &mut Fetch,
    served: &BTreeMap<ValidatorIndex, Snapshot>,
) -> Option<Result<(Assembled, State), FalseSnapshot>> {
    let mut assembly = source.assembly(fetch.begin()?);
    let mut state = source.first_state.clone();
    while !fetch.is_complete() {
        assert!(!fetch.is_stranded(), "nobody is left");
        for (peer, name) in fetch.questions(NOW) {
            // What is false is thrown away, and asked of others.
            let _ = fetch.page(peer, name, served[&peer].pages[&name].clone(), NOW);
        }
        while let Some(page) = fetch.next_page() {
            match assembly.take(&page) {
                Ok(accounts) => {
                    accounts.into_iter().for_each(|account| assert!(state.replace(account)));
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
    state.commit();
    Some(assembly.finish().map(|assembled| (assembled, state)))
}

/// The first error that a snapshot made of `lie` ends with.
fn refused(source: &Source, lie: &Source) -> FalseSnapshot {
    refused_pages(source, lie.cut_small())
}

fn refused_pages(source: &Source, snapshot: Snapshot) -> FalseSnapshot {
    let mut fetch = source.fetch();
    if let Err(error) = fetch.offer(ONE, snapshot.manifest.clone()) {
        assert_eq!(fetch.begin(), None);
        return error;
    }
    let error = assemble(source, &mut fetch, &BTreeMap::from([(ONE, snapshot)])).unwrap().unwrap_err();
    assert_eq!(fetch.refute(), [ONE]);
    error
}

#[test]
fn pages_come_from_everyone_who_has_them_within_the_bounds() {
    let (_, source) = paid();
    let snapshot = source.cut_small();
    let mut fetch = source.fetch();
    for peer in [ONE, TWO, THREE] {
        fetch.offer(peer, snapshot.manifest.clone()).unwrap();
    }
    fetch.begin().unwrap();
    let first = fetch.questions(NOW);
    for peer in [ONE, TWO, THREE] {
        assert_eq!(first.iter().filter(|(asked, _)| *asked == peer).count(), IN_FLIGHT_PER_PEER_MAX);
    }
    assert!(fetch.questions(NOW).is_empty(), "everyone is asked for as much as may be");
    // The first page does not come, and all others do: no more are kept than the window holds.
    let mut open = first[1..].to_vec();
    while let Some((peer, name)) = open.pop() {
        fetch.page(peer, name, snapshot.pages[&name].clone(), NOW).unwrap();
        open.extend(fetch.questions(NOW));
    }
    assert!(snapshot.manifest.pages() > WINDOW_PAGES && fetch.next_page().is_none());
    let (peer, name) = first[0];
    fetch.page(peer, name, snapshot.pages[&name].clone(), NOW).unwrap();
    assert_eq!(std::iter::from_fn(|| fetch.next_page()).count(), WINDOW_PAGES);
}

#[test]
fn who_sends_a_false_page_is_not_asked_again_and_the_state_is_right() {
    let (_, source) = paid();
    let (snapshot, mut liar) = (source.cut_small(), source.cut_small());
    liar.pages.values_mut().for_each(|page| page[0] ^= 1);
    let mut fetch = source.fetch();
    for peer in [ONE, TWO, THREE] {
        fetch.offer(peer, snapshot.manifest.clone()).unwrap();
    }
    let served = BTreeMap::from([(ONE, snapshot.clone()), (TWO, liar), (THREE, snapshot.clone())]);
    let (assembled, state) = assemble(&source, &mut fetch, &served).unwrap().unwrap();
    assert_eq!(assembled.blocks, source.blocks);
    assert_eq!(state.root(), source.blocks.last().unwrap().header.state_root);
    fetch.offer(TWO, snapshot.manifest).unwrap();
    fetch.begin().unwrap();
    assert!(fetch.questions(NOW).iter().all(|(peer, _)| *peer != TWO), "it is asked again");
}

#[test]
fn a_false_manifest_costs_one_transfer_and_discredits_all_who_named_it() {
    let (_, source) = paid();
    let (truth, lie) = (source.cut_small(), source.enriched().cut_small());
    let served = BTreeMap::from([(ONE, truth), (TWO, lie.clone()), (THREE, lie)]);
    let mut fetch = source.fetch();
    for (peer, snapshot) in &served {
        fetch.offer(*peer, snapshot.manifest.clone()).unwrap();
    }
    // Of equal height, what most peers have goes first.
    let first = assemble(&source, &mut fetch, &served).unwrap();
    assert!(matches!(first, Err(FalseSnapshot::WrongRoot { .. })));
    assert_eq!(fetch.refute(), [TWO, THREE]);
    let (_, state) = assemble(&source, &mut fetch, &served).unwrap().unwrap();
    assert_eq!(state.root(), source.blocks.last().unwrap().header.state_root);
}

#[test]
fn every_kind_of_lie_is_found() {
    let (_, source) = paid();
    let lie = |change: &dyn Fn(&mut Source)| {
        let mut lie = source.clone();
        change(&mut lie);
        refused(&source, &lie)
    };
    let top = source.blocks.len() as u64;
    let forged = lie(&|lie| lie.certificate.block = FinalBlock { id: lie.certificate.block.id, height: top + 1 });
    assert!(matches!(forged, FalseSnapshot::Certificate(_)));
    assert_eq!(lie(&|lie| lie.blocks.clear()), FalseSnapshot::NoBlocks);
    assert!(matches!(lie(&|lie| drop(lie.blocks.pop())), FalseSnapshot::OtherBlock { .. }));
    assert_eq!(lie(&|lie| drop(lie.blocks.remove(2))), FalseSnapshot::NotLinked { height: 3 });
    assert_eq!(lie(&|lie| drop(lie.blocks.remove(0))), FalseSnapshot::NoBlock { height: 1 });
    let unsigned = lie(&|lie| {
        let mut block = Block::clone(&lie.blocks[1]);
        block.signature.0[0] ^= 1;
        lie.blocks[1] = Arc::new(block);
    });
    assert!(matches!(unsigned, FalseSnapshot::Header { height: 2, .. }));
    let twice = lie(&|lie| lie.accounts.insert(2, lie.accounts[1].clone()));
    assert_eq!(twice, FalseSnapshot::NotRising { id: source.accounts[1].id() });
    assert!(matches!(lie(&|lie| lie.accounts.swap(4, 5)), FalseSnapshot::NotRising { .. }));
    assert!(matches!(lie(&|lie| drop(lie.accounts.remove(7))), FalseSnapshot::WrongRoot { .. }));
    let stranger = AccountId([0xff; 32]);
    let invented = lie(&|lie| lie.accounts.push(Account::new(stranger)));
    assert_eq!(invented, FalseSnapshot::UnknownAccount { id: stranger });
    let money = lie(&|lie| assert!(lie.accounts[3].set_balance(TokenId(77), Balance::new(1))));
    assert_eq!(money, FalseSnapshot::UnknownToken { id: source.accounts[3].id(), token: TokenId(77) });
    let mut empty = source.cut_small();
    let page = PageName { part: Part::Accounts, number: 2 };
    empty.manifest.accounts[2] = page_hash(&[]);
    empty.pages.insert(page, Vec::new());
    assert_eq!(refused_pages(&source, empty), FalseSnapshot::EmptyPage(page));
    assert!(matches!(refused(&source, &source.enriched()), FalseSnapshot::WrongRoot { .. }));
}

/// What a liar offers first is refused for this reason, and what `source` has is taken after it.
fn refused_and_then_returned(source: &Source, lie: Snapshot) -> FalseSnapshot {
    let truth = source.cut_small();
    let served = BTreeMap::from([(ONE, lie.clone()), (THREE, lie), (TWO, truth)]);
    let mut fetch = source.fetch();
    for (peer, snapshot) in &served {
        fetch.offer(*peer, snapshot.manifest.clone()).unwrap();
    }
    // Of equal height, what most peers have goes first.
    let error = assemble(source, &mut fetch, &served).unwrap().unwrap_err();
    assert_eq!(fetch.refute(), [ONE, THREE]);
    let (assembled, state) = assemble(source, &mut fetch, &served).unwrap().unwrap();
    assert_eq!(assembled.blocks, source.blocks);
    assert_eq!(state.root(), source.blocks.last().unwrap().header.state_root);
    error
}

/// How many pages of a lie are taken until it is found.
fn pages_until_refused(source: &Source, lie: &Snapshot) -> usize {
    let mut fetch = source.fetch();
    fetch.offer(ONE, lie.manifest.clone()).unwrap();
    let mut assembly = source.assembly(fetch.begin().unwrap());
    for taken in 1.. {
        for (peer, name) in fetch.questions(NOW) {
            fetch.page(peer, name, lie.pages[&name].clone(), NOW).unwrap();
        }
        if assembly.take(&fetch.next_page().unwrap()).is_err() {
            return taken;
        }
    }
    unreachable!("it is a lie")
}

#[test]
fn blocks_that_a_liar_signed_itself_are_refused_at_the_first_one() {
    let (_, source) = paid();
    let (id, schedule) = (source.genesis.id(), Schedule::new(&source.genesis));
    // Each is in form, has the rank that it says, and stands on the one before it.
    let signed_on = |below: &Block| {
        let slot = below.header.slot + 1;
        let (parent, height, rank) = (below.id(&id), below.header.height + 1, schedule.rank(slot, ONE).unwrap());
        let state_root = StateRoot([7; 32]);
        let header = BlockHeader { proposer: ONE, rank, slot, height, parent, state_root, ..below.header };
        Arc::new(Block::sign(header, below.digests.clone(), &validator_key(ONE.0), &id))
    };
    let mut beyond = source.clone();
    (0..40).for_each(|_| beyond.blocks.push(signed_on(&beyond.blocks[beyond.blocks.len() - 1])));
    let last = beyond.blocks.last().unwrap();
    let found = FalseSnapshot::OtherBlock { found: last.id(&id), height: last.header.height };
    let lie = beyond.cut(8);
    assert_eq!((pages_until_refused(&source, &lie), refused_and_then_returned(&source, lie)), (1, found));
    // A branch of its own below the certified block comes no further.
    let mut beside = source.clone();
    let place = beside.blocks.len() - 2;
    beside.blocks[place] = signed_on(&beside.blocks[place - 1]);
    let (lie, found) = (beside.cut_small(), FalseSnapshot::NotLinked { height: place as u64 + 1 });
    assert_eq!((pages_until_refused(&source, &lie), refused_and_then_returned(&source, lie)), (2, found));
}

#[test]
fn accounts_that_genesis_has_not_are_refused_at_the_first_one() {
    let (_, source) = paid();
    let mut many = source.clone();
    let invented = |number: u64| {
        let mut id = [0; 32];
        id[24..].copy_from_slice(&number.to_be_bytes());
        AccountId(id)
    };
    many.accounts.splice(0..0, (0..2_000).map(|number| Account::new(invented(number))));
    let lie = many.cut(128);
    let taken = lie.manifest.blocks.len() + 1;
    let found = FalseSnapshot::UnknownAccount { id: invented(0) };
    assert_eq!((pages_until_refused(&source, &lie), refused_and_then_returned(&source, lie)), (taken, found));
}

#[test]
fn who_names_more_pages_than_there_are_records_is_refused_at_once() {
    let (_, source) = paid();
    let (truth, height) = (source.cut_small().manifest, source.certificate.block.height);
    let most = u64::from(ACCOUNTS) + 1;
    let lies = [
        (Part::Blocks, height, Manifest { blocks: vec![[1; 32]; height as usize + 1], ..truth.clone() }),
        (Part::Accounts, most, Manifest { accounts: vec![[1; 32]; most as usize + 1], ..truth.clone() }),
    ];
    for (part, limit, manifest) in lies {
        let mut fetch = source.fetch();
        let refused = FalseSnapshot::TooManyPages { part, found: limit + 1, limit };
        assert_eq!(fetch.offer(ONE, manifest), Err(refused));
        fetch.offer(ONE, truth.clone()).unwrap();
        assert_eq!(fetch.begin(), None, "a liar is asked again");
        fetch.offer(TWO, truth.clone()).unwrap();
        assert_eq!(fetch.begin(), Some(truth.clone()));
    }
}

/// How many full pages come from the only peer, which takes so long for each, before it is left. `None` if all do.
fn pages_until_left(source: &Source, certificate: &CommitCertificate, page_ms: u64) -> Option<u64> {
    let page = vec![7; PAGE_BYTES_MAX];
    let blocks = vec![page_hash(&page); certificate.block.height as usize];
    let manifest = Manifest { certificate: certificate.clone(), blocks, accounts: Vec::new() };
    let mut fetch = source.fetch();
    fetch.offer(ONE, manifest).unwrap();
    fetch.begin().unwrap();
    let (mut now, mut came, mut open) = (NOW, 0, VecDeque::new());
    while !fetch.is_complete() {
        open.extend(fetch.questions(now));
        let (peer, name) = open.pop_front().unwrap();
        now = now + page_ms;
        fetch.page(peer, name, page.clone(), now).unwrap();
        came += 1;
        assert!(fetch.next_page().is_some());
        if fetch.leave_slow(now) == [ONE] {
            assert!(fetch.questions(now).is_empty() && fetch.is_stranded());
            return Some(came);
        }
    }
    None
}

#[test]
fn a_slow_link_keeps_its_pace_and_a_slower_peer_is_left() {
    let (mut cluster, source) = paid();
    cluster.run_slots(200);
    let certificate = cluster.nodes[0].disk.certificates.last().unwrap();
    let page_ms = |bytes_per_s: u64| PAGE_BYTES_MAX as u64 * 1_000 / bytes_per_s;
    assert!(certificate.block.height * page_ms(1_000_000) > PACE_MS, "there are pages enough to tell");
    assert_eq!(pages_until_left(&source, certificate, page_ms(1_000_000)), None, "one megabyte a second");
    assert_eq!(pages_until_left(&source, certificate, page_ms(500_000)), None, "even half of it");
    let slow = page_ms(PACE_BYTES_MIN * 1_000 / PACE_MS / 2);
    assert_eq!(pages_until_left(&source, certificate, slow), Some(PACE_MS / slow));
}

#[test]
fn who_drips_pages_is_left_and_another_one_asked() {
    let (_, source) = paid();
    let truth = source.cut_small();
    // Alone with its false snapshot, it is left; the honest one is next.
    let lie = source.enriched().cut_small();
    let mut fetch = source.fetch();
    for (peer, snapshot) in [(ONE, &lie), (THREE, &lie), (TWO, &truth)] {
        fetch.offer(peer, snapshot.manifest.clone()).unwrap();
    }
    assert_eq!(fetch.begin().unwrap(), lie.manifest);
    let mut now = NOW;
    while !fetch.is_stranded() {
        // Every question is answered, one in 20 seconds: none is open for long.
        for (peer, name) in fetch.questions(now) {
            fetch.page(peer, name, lie.pages[&name].clone(), now + 20_000).unwrap();
        }
        while fetch.next_page().is_some() {}
        now = now + 20_000;
        assert!(now <= NOW + PACE_MS, "{now:?}");
        let left = fetch.leave_slow(now);
        assert_eq!(left.is_empty(), now < NOW + PACE_MS);
    }
    let (_, state) = assemble(&source, &mut fetch, &BTreeMap::from([(TWO, truth)])).unwrap().unwrap();
    assert_eq!(state.root(), source.blocks.last().unwrap().header.state_root);
    fetch.give_up();
    [ONE, THREE].iter().for_each(|peer| fetch.offer(*peer, lie.manifest.clone()).unwrap());
    assert_eq!(fetch.begin(), None, "who was slow is asked again");
}

#[test]
fn who_drips_pages_that_others_have_too_is_left_and_they_are_not() {
    let (_, source) = paid();
    let truth = source.cut_small();
    let mut fetch = source.fetch();
    for peer in [ONE, TWO] {
        fetch.offer(peer, truth.manifest.clone()).unwrap();
    }
    fetch.begin().unwrap();
    let honest = |fetch: &mut Fetch, now: Millis| {
        let mut open = fetch.questions(now);
        while let Some((peer, name)) = open.pop() {
            if peer == TWO {
                fetch.page(peer, name, truth.pages[&name].clone(), now).unwrap();
                open.extend(fetch.questions(now));
            }
        }
    };
    honest(&mut fetch, NOW);
    // The first page is the silent one's: the window stands, and the honest one is asked for nothing.
    assert_eq!((fetch.next_page(), fetch.is_complete()), (None, false));
    assert!(fetch.leave_slow(NOW + (PACE_MS - 1)).is_empty());
    let now = NOW + PACE_MS;
    assert_eq!(fetch.leave_slow(now), [ONE]);
    while !fetch.is_complete() {
        honest(&mut fetch, now);
        assert!(fetch.next_page().is_some() && fetch.leave_slow(now).is_empty());
    }
}

#[test]
fn time_in_which_nothing_is_asked_does_not_count_against_a_peer() {
    let (_, source) = paid();
    let truth = source.cut_small();
    let mut fetch = source.fetch();
    fetch.offer(ONE, truth.manifest.clone()).unwrap();
    fetch.begin().unwrap();
    let mut now = NOW;
    while !fetch.is_complete() {
        for (peer, name) in fetch.questions(now) {
            fetch.page(peer, name, truth.pages[&name].clone(), now + 10).unwrap();
        }
        while fetch.next_page().is_some() {}
        // The disk here is slow.
        now = now + 2 * PACE_MS;
        assert!(fetch.leave_slow(now).is_empty());
    }
}

#[test]
fn what_is_given_up_for_want_of_room_is_not_begun_again_and_discredits_nobody() {
    let (_, source) = paid();
    let truth = source.cut_small();
    let mut fetch = source.fetch();
    fetch.offer(ONE, truth.manifest.clone()).unwrap();
    fetch.begin().unwrap();
    fetch.give_up();
    assert!(fetch.begin().is_none() && fetch.questions(NOW).is_empty());
    fetch.offer(ONE, truth.manifest.clone()).unwrap();
    assert_eq!(fetch.begin(), Some(truth.manifest));
}

#[test]
fn bytes_that_are_no_records_are_found_though_they_have_their_hash() {
    let (_, source) = paid();
    for part in [Part::Blocks, Part::Accounts] {
        let (mut snapshot, page) = (source.cut_small(), PageName { part, number: 1 });
        let bytes = snapshot.pages.get_mut(&page).unwrap();
        bytes.pop();
        let hash = page_hash(bytes);
        let hashes = if part == Part::Blocks { &mut snapshot.manifest.blocks } else { &mut snapshot.manifest.accounts };
        hashes[1] = hash;
        let mut fetch = source.fetch();
        fetch.offer(ONE, snapshot.manifest.clone()).unwrap();
        let found = assemble(&source, &mut fetch, &BTreeMap::from([(ONE, snapshot)])).unwrap();
        assert!(matches!(found, Err(FalseSnapshot::Undecodable { page: wrong, .. }) if wrong == page));
    }
}

#[test]
fn who_does_not_answer_is_left_out_and_another_snapshot_is_tried_when_nobody_is_left() {
    let (mut cluster, source) = paid();
    let older = source.cut_small();
    let genesis = cluster.genesis.clone();
    cluster.ask(0, &[payment(&genesis, 1, 2, 4, 1)]);
    cluster.run_slots(4);
    let node = &mut cluster.nodes[0];
    let newest = node.disk.certificates.last().unwrap().clone();
    assert!(newest.block.height > source.certificate.block.height);
    let newer = Source { certificate: newest, ..source.clone() }.cut_small();
    let mut fetch = source.fetch();
    fetch.offer(ONE, older.manifest.clone()).unwrap();
    fetch.offer(TWO, newer.manifest.clone()).unwrap();
    fetch.offer(THREE, newer.manifest.clone()).unwrap();
    assert_eq!(fetch.begin().unwrap(), newer.manifest, "the highest first");
    let open = fetch.questions(NOW);
    for silent in [TWO, THREE] {
        assert!(!fetch.is_stranded());
        let (peer, page) = open.iter().find(|(peer, _)| *peer == silent).unwrap();
        fetch.unanswered(*peer, *page);
    }
    assert!(fetch.is_stranded() && fetch.questions(NOW).is_empty());
    let (_, state) = assemble(&source, &mut fetch, &BTreeMap::from([(ONE, older)])).unwrap().unwrap();
    assert_eq!(state.root(), source.blocks.last().unwrap().header.state_root);
}

#[test]
fn a_manifest_has_one_form_within_its_limits() {
    let (_, source) = paid();
    let manifest = source.cut_small().manifest;
    let bytes = manifest.to_bytes();
    assert_eq!(Manifest::from_bytes(&bytes), Ok(manifest.clone()));
    for length in 0..bytes.len() {
        assert!(Manifest::from_bytes(&bytes[..length]).is_err());
    }
    assert!(Manifest::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
    let full = Manifest { blocks: vec![[1; 32]; PAGES_MAX - 7], accounts: vec![[2; 32]; 7], ..manifest };
    assert!(full.to_bytes().len() <= MANIFEST_BYTES_MAX);
    assert_eq!(Manifest::from_bytes(&full.to_bytes()), Ok(full.clone()));
    let beyond = Manifest { accounts: vec![[2; 32]; 8], ..full };
    assert!(matches!(Manifest::from_bytes(&beyond.to_bytes()), Err(DecodeError::OverLimit { .. })));
}

#[test]
fn a_validator_that_begins_at_a_snapshot_follows_and_signs_again_once_it_is_readmitted() {
    let (mut cluster, source) = paid();
    let snapshot = source.cut_small();
    let mut fetch = source.fetch();
    fetch.offer(ONE, snapshot.manifest.clone()).unwrap();
    let (assembled, state) = assemble(&source, &mut fetch, &BTreeMap::from([(ONE, snapshot)])).unwrap().unwrap();
    cluster.kill(2);
    let base = assembled.certificate.block;
    let id = cluster.genesis.id();
    cluster.nodes[2].disk = Disk {
        block_ids: assembled.blocks.iter().map(|block| (block.id(&id), block.clone())).collect(),
        blocks: assembled.blocks,
        certificates: vec![assembled.certificate],
        checkpoint: Some((state, base.id, base.height)),
        ..Disk::default()
    };
    let genesis = cluster.genesis.clone();
    cluster.ask(0, &[payment(&genesis, 5, 6, 4, 3)]);
    cluster.run_slots(3);
    cluster.boot(2);
    cluster.run_slots(6);
    assert_eq!(cluster.mode(2), Mode::FollowOnly);
    assert!(cluster.agree() && cluster.height(2) > base.height);
    let below: BTreeSet<_> = source.blocks.iter().flat_map(|block| block.digests.iter().copied()).collect();
    assert!(cluster.nodes[2].disk.batches.keys().all(|digest| !below.contains(digest)), "nothing older is fetched");
    // A batch that the base lists is not listed again, and its payments are used up.
    let again = cluster.ask(2, &[payment(&genesis, 5, 0, 0, 5)]);
    assert_eq!(again, [zeni_consensus::Verdict::Refused(zeni_consensus::Refusal::SequenceUsed)]);
    cluster.kill(2);
    let slot = genesis.slot_at(cluster.now.0) + 2;
    cluster.nodes[2].disk.safety =
        Some(SafetyRecord { last_signed_slot: slot, readmitted: true, ..SafetyRecord::default() });
    cluster.boot(2);
    cluster.run_slots(12);
    assert_eq!(cluster.mode(2), Mode::Active);
    assert!(cluster.agree());
}
