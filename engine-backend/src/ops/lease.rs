//! What transforming operations need of a worker: buffers, ciphers, and a few [`Job`]s,
//! which keep an operation's state from chunk to chunk.
//!
//! None of it is allocated by a worker at work. Most is when the worker starts. A job takes
//! near half a MiB, so there are as many as queues can have in use at a time: control threads
//! make one more before they attach a queue ([`Jobs`]), until there are [`JOBS`].
//!
//! A job is leased to an operation and comes back when that is dropped, wherever this
//! happens: on the worker, or on a control thread that aborts a queue. Keys that were
//! expanded into it are overwritten then. One whose operation has ended well is kept for the next of the
//! same chunk, which may have the same key: at the chunk's end, and so before anybody has taken the key away, what
//! was kept is overwritten ([`Codecs::end_chunk`]).

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use byway_protocols::codec::{AAD_BYTES_MAX, GCM_OPEN_BYTES_MAX, KeyAlgorithm};
use crossbeam_queue::ArrayQueue;

use super::aligned::Aligned;
use super::buffer::Buffer;
use super::device::Chains;
use crate::codec::lz4::ENCODED_MAX;
use crate::codec::{Cipher, CipherError, Stream};

/// Jobs of a worker.
pub const JOBS: usize = 8;

/// Most jobs of a worker that one domain has at a time, so that others find some.
pub const JOBS_PER_DOMAIN: usize = JOBS / 2;

/// Nobody's number: domains count from 1.
const NOBODY: u32 = 0;

/// State of one operation that goes on from chunk to chunk.
#[derive(Debug)]
pub struct Job {
    /// Its place in the pool.
    index: usize,
    /// Compression, of whatever kind.
    pub stream: Stream,
    /// AES-GCM for either length of keys.
    ciphers: [Cipher; 2],
    /// See [`Parts::message`].
    message: Aligned,
    /// What was made and is to be written.
    pub output: Aligned,
}

/// Bytes of a job's output: the most that one call makes.
pub const OUTPUT_BYTES: usize = ENCODED_MAX;

/// What a job that encrypts or decrypts works with.
#[derive(Debug)]
pub struct Parts<'j> {
    /// Compression.
    pub stream: &'j mut Stream,
    /// The cipher.
    pub cipher: &'j mut Cipher,
    /// A message that is being opened: nothing of it goes out before its tag is verified.
    pub message: &'j mut [u8],
    /// What was made and is to be written.
    pub output: &'j mut [u8],
}

impl Job {
    fn new(index: usize) -> Result<Self, CipherError> {
        Ok(Self {
            index,
            stream: Stream::new(),
            ciphers: [
                Cipher::new(KeyAlgorithm::AesGcm128)?,
                Cipher::new(KeyAlgorithm::AesGcm256)?,
            ],
            // Zeroed pages, which take no room before they are used.
            message: Aligned::zeroed(GCM_OPEN_BYTES_MAX as usize),
            output: Aligned::zeroed(OUTPUT_BYTES),
        })
    }

    /// Overwrites the keys of other ciphers.
    fn forget_all_but(&mut self, algorithm: Option<KeyAlgorithm>) {
        let used = algorithm.map(cipher_of);
        for (index, cipher) in self.ciphers.iter_mut().enumerate() {
            if used != Some(index) {
                cipher.forget();
            }
        }
    }

    /// The cipher for an algorithm of GCM, with what else is needed at the same time.
    pub fn parts(&mut self, algorithm: KeyAlgorithm) -> Parts<'_> {
        Parts {
            stream: &mut self.stream,
            cipher: &mut self.ciphers[cipher_of(algorithm)],
            message: &mut self.message,
            output: &mut self.output,
        }
    }
}

/// Which of a job's ciphers is for an algorithm of GCM: that for short keys, or for long ones.
fn cipher_of(algorithm: KeyAlgorithm) -> usize {
    usize::from(algorithm != KeyAlgorithm::AesGcm128)
}

/// Jobs that are free, and whose the others are.
#[derive(Debug)]
struct Pool {
    /// A place for each job. The first that is there is taken, so that whoever comes next finds the caches warm.
    free: [ArrayQueue<Box<Job>>; JOBS],
    users: [AtomicU32; JOBS],
    /// How many there are, those in use included.
    made: Mutex<usize>,
}

impl Pool {
    /// Those in use.
    fn used(&self) -> usize {
        let is_used = |user: &&AtomicU32| user.load(Ordering::Relaxed) != NOBODY;
        self.users.iter().filter(is_used).count()
    }
}

/// A worker's jobs, as control threads see them: they make them.
#[derive(Debug, Clone)]
pub struct Jobs(Arc<Pool>);

impl Default for Jobs {
    fn default() -> Self {
        Self::none()
    }
}

impl Jobs {
    /// None yet.
    #[must_use]
    pub fn none() -> Self {
        Self(Arc::new(Pool {
            free: std::array::from_fn(|_| ArrayQueue::new(1)),
            users: std::array::from_fn(|_| AtomicU32::new(NOBODY)),
            made: Mutex::new(0),
        }))
    }

    /// All that there can be.
    #[must_use]
    pub fn all() -> Self {
        let jobs = Self::none();
        jobs.provide(JOBS);
        jobs
    }

    /// Makes jobs until so many queues find one each: to be called before the worker is given the last of them. A queue
    /// has one operation in hand; one that was taken away from the worker may have a job of its with it, which
    /// counts as in use.
    pub fn provide_for(&self, queues: usize) {
        self.provide(queues + self.0.used());
    }

    /// Makes jobs until there are so many, or all: for queues with many operations at a time, those at devices.
    pub fn provide(&self, count: usize) {
        // A count that is right between any two steps.
        let mut made = self.0.made.lock().unwrap_or_else(PoisonError::into_inner);
        while *made < count.min(JOBS) {
            match Job::new(*made) {
                Ok(job) => {
                    // Its place is empty.
                    let _ = self.0.free[*made].push(Box::new(job));
                    *made += 1;
                }
                // Operations that find none end in status 20.
                Err(error) => {
                    tracing::warn!(%error, "no memory for a worker's ciphers");
                    return;
                }
            }
        }
    }
}

/// A job in an operation's hands.
#[derive(Debug)]
pub struct Lease {
    /// `Some` until it is dropped.
    job: Option<Box<Job>>,
    pool: Arc<Pool>,
}

impl Lease {
    /// The job; `None` once it was [kept](Codecs::keep).
    pub fn job(&mut self) -> Option<&mut Job> {
        self.job.as_deref_mut()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(mut job) = self.job.take() {
            job.forget_all_but(None);
            self.pool.users[job.index].store(NOBODY, Ordering::Relaxed);
            // Its place is empty while it is away.
            let _ = self.pool.free[job.index].push(job);
        }
    }
}

/// A worker's share of all this.
#[derive(Debug)]
pub struct Codecs {
    /// Buffers within a chunk.
    pub buffer: Buffer,
    /// Ciphers within a chunk, for modes that keep nothing but an initialisation vector.
    ciphers: [Option<Cipher>; 3],
    jobs: Jobs,
    /// The job of an operation that has ended in this chunk, and whose it was.
    kept: Option<(u32, Lease)>,
    /// Whether anything has a key that is to be overwritten at the chunk's end.
    is_keyed: bool,
    /// Room for operations on what devices read.
    pub chains: Chains,
}

impl Codecs {
    /// Allocates everything but the jobs.
    ///
    /// # Panics
    /// When there is no memory.
    #[must_use]
    pub fn new(jobs: Jobs) -> Self {
        Self::try_new(jobs).expect("memory for a worker's ciphers")
    }

    fn try_new(jobs: Jobs) -> Result<Self, CipherError> {
        Ok(Self {
            buffer: Buffer::new(),
            ciphers: [
                Some(Cipher::new(KeyAlgorithm::AesXts256)?),
                Some(Cipher::new(KeyAlgorithm::AesCbc128)?),
                Some(Cipher::new(KeyAlgorithm::AesCbc256)?),
            ],
            jobs,
            kept: None,
            is_keyed: false,
            chains: Chains::new(),
        })
    }

    /// A job for an operation of this domain, if there is one and the domain has not too
    /// many; with the key that it may have from an operation before, if it is one for the cipher that is `wanted`.
    #[must_use]
    pub fn lease(&mut self, domain: u32, wanted: Option<KeyAlgorithm>) -> Option<Lease> {
        // Anybody else's goes back to the others.
        if let Some((owner, mut lease)) = self.kept.take()
            && owner == domain
        {
            // What its operation does not use may be in its hands for longer than whoever takes the key away waits.
            if let Some(job) = lease.job() {
                job.forget_all_but(wanted);
            }
            return Some(lease);
        }
        let pool = &self.jobs.0;
        let users = &pool.users;
        let has = users
            .iter()
            .filter(|user| user.load(Ordering::Relaxed) == domain)
            .count();
        if has >= JOBS_PER_DOMAIN {
            return None;
        }
        let job = pool.free.iter().find_map(ArrayQueue::pop)?;
        users[job.index].store(domain, Ordering::Relaxed);
        Some(Lease {
            job: Some(job),
            pool: Arc::clone(pool),
        })
    }

    /// Keeps the job of an operation of this domain that has ended well, to the chunk's end.
    pub fn keep(&mut self, domain: u32, lease: &mut Lease) {
        if let Some(job) = lease.job.take() {
            let pool = Arc::clone(&lease.pool);
            self.kept = Some((
                domain,
                Lease {
                    job: Some(job),
                    pool,
                },
            ));
            self.is_keyed = true;
        }
    }

    /// Overwrites every key that was kept in case of another operation with it. To be called before a chunk is
    /// over for those who take keys away.
    #[inline(always)]
    pub fn end_chunk(&mut self) {
        if self.is_keyed {
            self.forget();
        }
    }

    #[cold]
    fn forget(&mut self) {
        self.kept = None;
        self.ciphers.iter_mut().flatten().for_each(Cipher::forget);
        self.is_keyed = false;
    }

    /// Whether a key is in anything that is not in an operation's hands.
    #[cfg(test)]
    pub(crate) fn has_keys(&self) -> bool {
        let free = &self.jobs.0.free;
        let is_keyed = |job: &Job| job.ciphers.iter().any(Cipher::has_key);
        let in_pool = free.iter().any(|place| {
            let job = place.pop();
            let found = job.as_deref().is_some_and(is_keyed);
            job.is_some_and(|job| place.push(job).is_err()) || found
        });
        let kept = self
            .kept
            .as_ref()
            .and_then(|(_, lease)| lease.job.as_deref());
        in_pool || kept.is_some_and(is_keyed) || self.ciphers.iter().flatten().any(Cipher::has_key)
    }

    /// The cipher of a mode that works on blocks, to be put back within the chunk, with the key that it may have from an
    /// operation before; `None` for GCM.
    #[must_use]
    pub fn take(&mut self, algorithm: KeyAlgorithm) -> Option<Cipher> {
        let is_it = |cipher: &Cipher| cipher.algorithm() == algorithm;
        self.ciphers
            .iter_mut()
            .find(|place| place.as_ref().is_some_and(is_it))?
            .take()
    }

    /// Puts it back, as it is: what key it has is overwritten at the chunk's end.
    pub fn put_back(&mut self, cipher: Cipher) {
        self.is_keyed = true;
        if let Some(place) = self.ciphers.iter_mut().find(|place| place.is_none()) {
            *place = Some(cipher);
        }
    }
}

// Additional data and a tag's worth of it are gathered in one go.
const _: () = assert!(AAD_BYTES_MAX as usize <= super::buffer::BUFFER_BYTES);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Direction, KeyName};

    #[test]
    fn one_domain_leaves_some_to_others() {
        let mut codecs = Codecs::new(Jobs::all());
        let mine: Vec<_> = (0..JOBS_PER_DOMAIN)
            .map(|_| codecs.lease(1, None).unwrap())
            .collect();
        assert!(codecs.lease(1, None).is_none());
        let yours: Vec<_> = (0..JOBS - JOBS_PER_DOMAIN)
            .map(|_| codecs.lease(2, None).unwrap())
            .collect();
        assert!(codecs.lease(3, None).is_none());
        drop(mine);
        assert!(codecs.lease(3, None).is_some());
        drop(yours);
        assert!(codecs.jobs.0.free.iter().all(ArrayQueue::is_full));
    }

    #[test]
    fn what_is_kept_is_for_the_same_domain_and_the_same_chunk() {
        let mut codecs = Codecs::new(Jobs::all());
        const GCM: Option<KeyAlgorithm> = Some(KeyAlgorithm::AesGcm256);
        let name = KeyName {
            id: 1,
            object: None,
        };
        let ended = |codecs: &mut Codecs| {
            let mut lease = codecs.lease(1, GCM).unwrap();
            let Parts { cipher, .. } = lease.job().unwrap().parts(KeyAlgorithm::AesGcm256);
            let started = cipher.start_named(name, || Ok([5; 32]), &[0; 16], Direction::Encrypt);
            started.unwrap();
            codecs.keep(1, &mut lease);
            assert!(lease.job().is_none());
        };
        ended(&mut codecs);
        let mut again = codecs.lease(1, GCM).unwrap();
        let Parts { cipher, .. } = again.job().unwrap().parts(KeyAlgorithm::AesGcm256);
        assert!(cipher.has_key());
        drop(again);
        assert!(!codecs.has_keys());
        // Another domain finds no key, nor is what was kept lost to it.
        ended(&mut codecs);
        let mut other = codecs.lease(2, GCM).unwrap();
        let Parts { cipher, .. } = other.job().unwrap().parts(KeyAlgorithm::AesGcm256);
        assert!(!cipher.has_key() && !codecs.has_keys());
        drop(other);
        // Nor does an operation that has no use for it take it along, beyond the chunk.
        for wanted in [None, Some(KeyAlgorithm::AesGcm128)] {
            ended(&mut codecs);
            let mut other = codecs.lease(1, wanted).unwrap();
            assert!(!other.job().unwrap().ciphers.iter().any(Cipher::has_key));
        }
        ended(&mut codecs);
        assert!(codecs.has_keys());
        codecs.end_chunk();
        assert!(!codecs.has_keys());
        assert!(codecs.jobs.0.free.iter().all(ArrayQueue::is_full));
        assert_eq!(codecs.jobs.0.used(), 0);
    }

    #[test]
    fn a_lease_may_outlive_its_worker() {
        let mut codecs = Codecs::new(Jobs::all());
        let lease = codecs.lease(1, None).unwrap();
        drop(codecs);
        drop(lease);
    }

    #[test]
    fn there_is_a_job_for_each_queue_and_for_what_one_has_taken_along() {
        let jobs = Jobs::none();
        let mut codecs = Codecs::new(jobs.clone());
        assert!(codecs.lease(1, None).is_none());
        jobs.provide_for(1);
        let along = codecs.lease(1, None).unwrap();
        assert!(codecs.lease(1, None).is_none());
        // Its queue has gone to another worker, and one of another domain comes.
        jobs.provide_for(1);
        assert!(codecs.lease(2, None).is_some());
        drop(along);
        // Nothing grows without end.
        for _ in 0..3 {
            jobs.provide_for(2 * JOBS);
        }
        assert!(jobs.0.free.iter().all(ArrayQueue::is_full));
    }
}
