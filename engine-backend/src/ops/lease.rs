//! What transforming operations need of a worker: buffers, ciphers, and a few [`Job`]s,
//! which keep an operation's state from chunk to chunk.
//!
//! All of it is allocated when the worker starts. A job is leased to an operation and
//! comes back when that is dropped, wherever this happens: on the worker, or on a control
//! thread that aborts a queue. Keys that were expanded into it are overwritten then.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use byway_protocols::codec::{AAD_BYTES_MAX, GCM_OPEN_BYTES_MAX, KeyAlgorithm};
use crossbeam_queue::ArrayQueue;

use super::buffer::Buffer;
use super::device::Chains;
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
    message: Box<[u8]>,
    /// What was made and is to be written.
    pub output: Box<[u8]>,
}

/// Bytes of a job's output: the most that one call makes, and one that does not fit.
pub const OUTPUT_BYTES: usize = (16 << 10) + 1;

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
            message: vec![0; GCM_OPEN_BYTES_MAX as usize].into_boxed_slice(),
            output: vec![0; OUTPUT_BYTES].into_boxed_slice(),
        })
    }

    /// The cipher for an algorithm of GCM, with what else is needed at the same time.
    pub fn parts(&mut self, algorithm: KeyAlgorithm) -> Parts<'_> {
        let [short, long] = &mut self.ciphers;
        let cipher = if algorithm == KeyAlgorithm::AesGcm128 {
            short
        } else {
            long
        };
        Parts {
            stream: &mut self.stream,
            cipher,
            message: &mut self.message,
            output: &mut self.output,
        }
    }
}

/// Jobs that are free, and whose the others are.
#[derive(Debug)]
struct Pool {
    /// A place for each job. The first that is there is taken, so that whoever comes next finds the caches warm.
    free: [ArrayQueue<Box<Job>>; JOBS],
    users: [AtomicU32; JOBS],
}

/// A job in an operation's hands.
#[derive(Debug)]
pub struct Lease {
    /// `Some` until it is dropped.
    job: Option<Box<Job>>,
    pool: Arc<Pool>,
}

impl Lease {
    /// The job; `None` never, while there is a lease.
    pub fn job(&mut self) -> Option<&mut Job> {
        self.job.as_deref_mut()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(mut job) = self.job.take() {
            for cipher in &mut job.ciphers {
                cipher.forget();
            }
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
    pool: Arc<Pool>,
    /// Room for operations on what devices read.
    pub chains: Chains,
}

impl Codecs {
    /// Allocates everything.
    ///
    /// # Panics
    /// When there is no memory.
    #[must_use]
    pub fn new() -> Self {
        Self::try_new().expect("memory for a worker's ciphers")
    }

    fn try_new() -> Result<Self, CipherError> {
        let pool = Pool {
            free: std::array::from_fn(|_| ArrayQueue::new(1)),
            users: std::array::from_fn(|_| AtomicU32::new(NOBODY)),
        };
        for index in 0..JOBS {
            // There is room for every job.
            let _ = pool.free[index].push(Box::new(Job::new(index)?));
        }
        Ok(Self {
            buffer: Buffer::new(),
            ciphers: [
                Some(Cipher::new(KeyAlgorithm::AesXts256)?),
                Some(Cipher::new(KeyAlgorithm::AesCbc128)?),
                Some(Cipher::new(KeyAlgorithm::AesCbc256)?),
            ],
            pool: Arc::new(pool),
            chains: Chains::new(),
        })
    }

    /// A job for an operation of this domain, if there is one and the domain has not too
    /// many.
    #[must_use]
    pub fn lease(&self, domain: u32) -> Option<Lease> {
        let users = &self.pool.users;
        let has = users
            .iter()
            .filter(|user| user.load(Ordering::Relaxed) == domain)
            .count();
        if has >= JOBS_PER_DOMAIN {
            return None;
        }
        let job = self.pool.free.iter().find_map(ArrayQueue::pop)?;
        users[job.index].store(domain, Ordering::Relaxed);
        Some(Lease {
            job: Some(job),
            pool: Arc::clone(&self.pool),
        })
    }

    /// The cipher of a mode that works on blocks, to be put back within the chunk; `None`
    /// for GCM.
    #[must_use]
    pub fn take(&mut self, algorithm: KeyAlgorithm) -> Option<Cipher> {
        let is_it = |cipher: &Cipher| cipher.algorithm() == algorithm;
        self.ciphers
            .iter_mut()
            .find(|place| place.as_ref().is_some_and(is_it))?
            .take()
    }

    /// Puts it back.
    pub fn put_back(&mut self, cipher: Cipher) {
        if let Some(place) = self.ciphers.iter_mut().find(|place| place.is_none()) {
            *place = Some(cipher);
        }
    }
}

impl Default for Codecs {
    fn default() -> Self {
        Self::new()
    }
}

// Additional data and a tag's worth of it are gathered in one go.
const _: () = assert!(AAD_BYTES_MAX as usize <= super::buffer::BUFFER_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_domain_leaves_some_to_others() {
        let codecs = Codecs::new();
        let mine: Vec<_> = (0..JOBS_PER_DOMAIN)
            .map(|_| codecs.lease(1).unwrap())
            .collect();
        assert!(codecs.lease(1).is_none());
        let yours: Vec<_> = (0..JOBS - JOBS_PER_DOMAIN)
            .map(|_| codecs.lease(2).unwrap())
            .collect();
        assert!(codecs.lease(3).is_none());
        drop(mine);
        assert!(codecs.lease(3).is_some());
        drop(yours);
        assert!(codecs.pool.free.iter().all(ArrayQueue::is_full));
    }

    #[test]
    fn a_lease_may_outlive_its_worker() {
        let codecs = Codecs::new();
        let lease = codecs.lease(1).unwrap();
        drop(codecs);
        drop(lease);
    }
}
