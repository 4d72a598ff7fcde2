//! Who holds how many of an endpoint's connections. Validators are counted apart from everyone else, each key for
//! itself: whatever clients do, a validator finds room, and whatever one client does, the others do.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zeni_ledger::PublicKey;
use zeni_schemas::Role;

/// The connections that were taken, from the moment at which their key is known.
#[derive(Debug)]
pub(crate) struct Places {
    connections_max: usize,
    per_key_max: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    by_key: HashMap<PublicKey, usize>,
    /// Of keys that are no validators.
    by_others: usize,
}

/// Room for one connection; dropping it gives the room back.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    key: PublicKey,
    is_validator: bool,
}

impl Places {
    /// `connections_max` for all that are no validators together, `per_key_max` for each key.
    pub(crate) fn new(connections_max: usize, per_key_max: usize) -> Arc<Self> {
        Arc::new(Self { connections_max, per_key_max, held: Mutex::default() })
    }

    /// Room for one more connection of this key, which may have at most the role `highest`.
    pub(crate) fn take(self: &Arc<Self>, key: PublicKey, highest: Role) -> Option<Place> {
        let is_validator = highest == Role::Validator;
        let mut held = self.held();
        let own = held.by_key.get(&key).copied().unwrap_or(0);
        if own >= self.per_key_max || (!is_validator && held.by_others >= self.connections_max) {
            return None;
        }
        held.by_key.insert(key, own + 1);
        held.by_others += usize::from(!is_validator);
        Some(Place { places: Arc::clone(self), key, is_validator })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.held();
        held.by_others -= usize::from(!self.is_validator);
        let own = held.by_key.get_mut(&self.key).expect("a key that holds a place is counted");
        *own -= 1;
        if *own == 0 {
            held.by_key.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [PublicKey; 4] = [PublicKey([1; 32]), PublicKey([2; 32]), PublicKey([3; 32]), PublicKey([4; 32])];

    #[test]
    fn one_key_cannot_take_every_place() {
        let places = Places::new(10, 2);
        let held = [(); 2].map(|()| places.take(KEYS[0], Role::Client).unwrap());
        assert!(places.take(KEYS[0], Role::Client).is_none());
        assert!(places.take(KEYS[1], Role::Client).is_some());
        drop(held);
        assert!(places.take(KEYS[0], Role::Client).is_some());
        assert_eq!(places.held().by_key.len(), 0);
    }

    #[test]
    fn clients_and_followers_never_take_a_validators_place() {
        let places = Places::new(2, 2);
        let _held = [(KEYS[0], Role::Client), (KEYS[1], Role::Follower)].map(|(key, role)| places.take(key, role));
        assert!(places.take(KEYS[2], Role::Client).is_none());
        let validators = [(); 2].map(|()| places.take(KEYS[3], Role::Validator).unwrap());
        assert!(places.take(KEYS[3], Role::Validator).is_none(), "a validator's places are bounded too");
        drop(validators);
        assert!(places.take(KEYS[2], Role::Client).is_none(), "a validator that goes leaves no room for clients");
    }
}
