/*
 * The protocol of session-lock, for spin. What is proved and within which bounds: tests/README.md.
 * `cargo test --test model` runs it; by hand:
 *
 *     spin -DMOVES=1 -a models/session_lock.pml && cc -O2 -DSAFETY -o pan pan.c && ./pan
 *
 * Which step stands for what:
 *
 *     here                      in src/
 *     ------------------------  -----------------------------------------------------------------
 *     Contender                 one call of SessionLock::acquire or ::wait, and then ::release
 *     open_path                 lock_file::LockFile::open_any: open, and where nothing is there,
 *                               O_CREAT|O_EXCL; entered in the registry while FORK_LOCK is held
 *                               (registry::Descriptor::open)
 *     TRY                       sys::flock_nonblocking (LOCK_EX|LOCK_NB)
 *     BLOCK                     sys::flock_blocking, in the caller itself
 *     HELP, Helper              wait::Blocked and its thread, wait::block_in_flock
 *     "gives up"                the end of wait::Blocked::wait: cancel, join, one last try
 *     "cannot be interrupted"   wait::Blocked::is_stuck: the thread is left to itself
 *     compare                   lock_file::is_at_path, after the grant (lock::lock_opened)
 *     write_label, clear_label  label::write, label::clear
 *     release                   lock::release: registry::take, check_path, clear, LOCK_UN, close
 *     Child                     a fork at any moment by another thread, and registry::child in it
 *     Killer                    SIGKILL at any moment
 *     Outsider                  somebody who deletes, renames or replaces the file
 *
 * What is simpler than the real thing, and why nothing is lost by it: a free lock goes to any of
 * those who are blocked, not to the first in the kernel's queue (every order is searched). A
 * deadline or a cancellation may come at any moment of a wait, and the thread that is cancelled may run at
 * any moment after it: until then it is in the queue. The link count that is looked at
 * after the open is left out (it only saves a turn). An inode's number is used again as soon as
 * nothing refers to it, as filesystems do.
 *
 * The switches that break the protocol on purpose stand with the step that they break: NO_COMPARE,
 * COMPARE_BEFORE_LOCK, RETRY_WITHOUT_OPEN, NO_LAST_TRY, TRY_BEFORE_CANCEL, ABANDON_STARVED,
 * LABEL_BEFORE_LOCK, CLEAR_AFTER_UNLOCK, CLOSE_ONLY, NO_CHECK_AT_RELEASE, CHILD_RELEASES, NO_FORK_HOOK,
 * HOOK_MISSES_WAITS, NO_FORK_LOCK, QUERY_LOCKS.
 */

#ifndef PROCS
#define PROCS 2         /* contenders */
#endif
#ifndef ROUNDS
#define ROUNDS 1        /* locks that each of them takes, one after the other */
#endif
#ifndef DEATHS
#define DEATHS 1        /* contenders that are killed, at most */
#endif
#ifndef FORKS
#define FORKS 1         /* children, at most */
#endif
#ifndef MOVES
#define MOVES 0         /* of the outsider, at most */
#endif

#define INODES (MOVES + 1)
#define DESCRIPTIONS (2 * PROCS + FORKS)
#define NONE 0

/* ------------------------------------------------------------------------- the kernel's side */

byte path = NONE;                       /* the inode that the lock file's path names */
byte aside = NONE;                      /* the inode that the outsider has moved away */
byte inode_of[DESCRIPTIONS + 1];        /* of an open file description */
byte refs[DESCRIPTIONS + 1];            /* descriptors of it, and system calls that use it */
byte lock_on[INODES + 1];               /* the description that has the lock on an inode */
byte label_in[INODES + 1];              /* who the label names: a contender, counted from 1 */

/* -------------------------------------------------------------------------------- contenders */

byte fd[PROCS];                         /* the description that each has open */
bool entered[PROCS];                    /* the table knows it */
bool killed[PROCS];
bool holds[PROCS];                      /* a call has said so, and release was not called yet */
bool labelled[PROCS];
byte finished;                          /* contenders that have ended, by themselves or not */

/* The helper threads. */
byte asked[PROCS];                      /* the description to lock; NONE: there is no thread */
bool cancelled[PROCS];
bool answered[PROCS];
bool deaf[PROCS];                       /* its flock cannot be interrupted */

/* ------------------------------------------- for the proof alone: no step of the protocol reads these */

byte moves;                             /* that the outsider has made */
bool orphan[DESCRIPTIONS + 1];          /* its contender is dead */
byte excused[DESCRIPTIONS + 1];         /* copies in children that no hook can reach, or has not yet */
bool asking;                            /* a query has the lock */

#if MOVES == 0
#define COUNTS(p) holds[p]
#else
#define COUNTS(p) (holds[p] && inode_of[fd[p]] == path)
#endif

/* I1: one holder. With an outsider, what is left of it: one holder whose check would say yes at
 * this moment. And a holder's label is its own. At the end of every step that could change it. */
inline invariants() {
    count = 0; p = 0;
    do
    :: p < PROCS ->
        if
        :: COUNTS(p) -> count++
        :: else
        fi;
        assert(!(holds[p] && labelled[p]) || label_in[inode_of[fd[p]]] == p + 1);
        p++
    :: else -> break
    od;
    assert(count <= 1);
    count = 0; p = 0
}

/* I3: a dead holder's lock lives on only in what no hook can reach. */
#define GONE_WITH_ITS_HOLDER(d) \
    assert(!(orphan[d] && lock_on[inode_of[d]] == d && excused[d] == 0))

#define MINE_OR_FREE(d) (lock_on[inode_of[d]] == NONE || lock_on[inode_of[d]] == d)

/* LOCK_UN */
inline unlock(d) {
    if
    :: lock_on[inode_of[d]] == d -> lock_on[inode_of[d]] = NONE
    :: else
    fi
}

/* One reference less; the lock goes with the last one. */
inline drop(d) {
    refs[d]--;
    if
    :: refs[d] == 0 -> unlock(d); inode_of[d] = NONE; orphan[d] = false
    :: else
    fi
}

/* A new file at the path, with the lowest inode that nothing refers to. */
inline create() {
    n = 1;
    do
    :: n <= INODES ->
        p = 1;
        do
        :: p <= DESCRIPTIONS && inode_of[p] != n -> p++
        :: else -> break
        od;
        if
        :: p > DESCRIPTIONS && aside != n && path != n -> break
        :: else -> n++
        fi
    :: else -> assert(false)            /* INODES is too small */
    od;
    path = n; label_in[n] = NONE;
    n = 0; p = 0
}

/* A new description of the file at the path. */
inline describe() {
    d = 1;
    do
    :: refs[d] == 0 -> break
    :: else -> d++; assert(d <= DESCRIPTIONS)
    od;
    inode_of[d] = path; refs[d] = 1; fd[me] = d
#ifndef NO_FORK_LOCK
    ; entered[me] = true                /* in one breath with the open, as a fork sees it */
#endif
}

/* open(2) without O_CREAT; where nothing is there, with O_CREAT|O_EXCL; and where somebody else was
 * faster with that, from the start. */
inline open_path() {
    do
    :: d_step { path != NONE -> describe() }; break
    :: path == NONE ->
        if
        :: d_step { path == NONE -> create(); describe() }; break
        :: path != NONE
        fi
    od
#ifdef NO_FORK_LOCK
    ; entered[me] = true
#endif
}

inline close_it() {
    d_step { drop(d); fd[me] = NONE; entered[me] = false; d = NONE }
}

/* LOCK_EX|LOCK_NB */
inline try_lock() {
    d_step {
        got = MINE_OR_FREE(d);
        if
        :: got -> lock_on[inode_of[d]] = d
        :: else
        fi;
        since = moves
    }
}

inline compare() {
    d_step { is_there = (inode_of[d] == path) }
}

inline write_label() {
    d_step { label_in[inode_of[d]] = me + 1; labelled[me] = true; invariants() }
}

inline clear_label() {
    if
    :: labelled[me] -> d_step { label_in[inode_of[d]] = NONE; labelled[me] = false; invariants() }
    :: else
    fi
}

proctype Contender(byte me) {
    byte d, since, round, count, p, n;
    bool got, is_there;

    {
        round = 0;
again:
        open_path();
retry:
#ifdef LABEL_BEFORE_LOCK
        write_label();
#endif
#ifdef COMPARE_BEFORE_LOCK
        compare();
#endif
        if
        /* TRY: acquire, or the first try of a wait */
        :: try_lock();
            if
            :: got
            :: else ->
                assert(!asking);        /* I5: no query is in the way */
                close_it(); goto out
            fi
        /* BLOCK: a wait without an end, in the caller's own flock */
        :: d_step { MINE_OR_FREE(d) -> lock_on[inode_of[d]] = d; since = moves }
        /* HELP: a wait with a deadline or a cancel descriptor */
        :: d_step { refs[d]++; answered[me] = false; cancelled[me] = false; asked[me] = d }
            if
            :: answered[me] && asked[me] == NONE -> since = moves
            :: true ->                  /* gives up */
#ifdef TRY_BEFORE_CANCEL
                try_lock();
#endif
                cancelled[me] = true;
                if
                :: asked[me] == NONE -> /* joined */
#if !defined(NO_LAST_TRY) && !defined(TRY_BEFORE_CANCEL)
                    try_lock();
#endif
                    if
                    :: got
                    :: else ->
                        /* A lock that was granted is not thrown away. */
                        assert(lock_on[inode_of[d]] != d);
                        close_it(); goto out
                    fi
#ifdef ABANDON_STARVED
                :: asked[me] != NONE ->
#else
                :: asked[me] != NONE && deaf[me] ->     /* cannot be interrupted */
#endif
                    close_it(); goto done
                fi
            fi
        fi;
        got = false;
#ifndef NO_COMPARE
#ifndef COMPARE_BEFORE_LOCK
        compare();
#endif
        if
        :: is_there -> is_there = false
        :: else ->
#ifdef RETRY_WITHOUT_OPEN
            goto retry;
#endif
            close_it();
            if
            :: goto again
            :: goto out                 /* the deadline has passed meanwhile */
            fi
        fi;
#endif
#ifndef LABEL_BEFORE_LOCK
        if
        :: write_label()
        :: skip                         /* it cannot be written: the lock is as good */
        fi;
#endif
        d_step {
            /* I2: unless the path was touched after the grant, the locked file is there. */
            assert(since != moves || inode_of[d] == path);
            since = 0;
            holds[me] = true;
            invariants()
        }

        /* Here the session's work is done. Then release. */
        d_step {
            holds[me] = false;
#ifdef NO_CHECK_AT_RELEASE
            is_there = true;
#else
            is_there = (inode_of[d] == path);
#endif
            assert(is_there == (inode_of[d] == path));  /* I2: ESTALE is said */
            is_there = false
        }
#ifdef CLEAR_AFTER_UNLOCK
        d_step { unlock(d) };
        clear_label();
#else
        clear_label();
#ifndef CLOSE_ONLY
        d_step { unlock(d) };
#endif
#endif
        d_step {
            p = d;
            drop(d); fd[me] = NONE; entered[me] = false; d = NONE;
            /* Free at once, whoever has a copy. */
            assert(refs[p] == 0 || lock_on[inode_of[p]] != p);
            p = 0
        }
out:    round++;
        if
        :: round < ROUNDS -> goto again
        :: else
        fi;
done:   skip
    } unless { killed[me] }

    /* The end of the process: its files are closed when its last thread is gone. */
    d_step {
        asked[me] == NONE ->
        holds[me] = false; labelled[me] = false; entered[me] = false;
        since = 0; got = false; is_there = false; count = 0; n = 0; round = 0;
        if
        :: fd[me] != NONE ->
            d = fd[me]; fd[me] = NONE;
            orphan[d] = true;
            drop(d);
            GONE_WITH_ITS_HOLDER(d)
        :: else
        fi;
        d = NONE; p = 0;
        finished++
    }
}

/* The thread that blocks in flock. The call has a reference to the description, which is gone when
 * it returns. The grant can come just before the cancellation, and just after it: a thread that has not
 * had its turn since is still in the queue. */
#define STOPPED(me) ((cancelled[me] || killed[me]) && !deaf[me])

proctype Helper(byte me) {
    byte d;
end:
    do
    :: d_step { asked[me] != NONE -> d = asked[me] }
        if
        :: deaf[me] = true
        :: deaf[me] = false
        fi;
        if
        :: d_step {
                MINE_OR_FREE(d) -> lock_on[inode_of[d]] = d;
                /* Nobody has left a thread in the queue that only has not had its turn. */
                assert(deaf[me] || killed[me] || fd[me] == d)
            }
            if
            :: answered[me] = true
            :: STOPPED(me)
            fi
        :: STOPPED(me)
        fi;
        d_step { drop(d); d = NONE; asked[me] = NONE; deaf[me] = false }
    od
}

/* A fork by any contender, at any moment that it has a description open. */
inline fork(parent) {
    d_step {
        fd[parent] != NONE && !killed[parent] ->
        d = fd[parent];
        refs[d]++; excused[d]++;
#if defined(NO_FORK_HOOK)
        known = false
#elif defined(HOOK_MISSES_WAITS)
        known = holds[parent]
#else
        known = entered[parent]
#endif
    }
}

/* Its child; with the hook or, by a bare clone, without. */
proctype Child() {
    byte d;
    bool known;
end:
    if
    :: fork(0)
    :: fork(1)
#if PROCS > 2
    :: fork(2)
#endif
    fi;
    if
    :: d_step {                         /* the hook closes what the table knows */
            excused[d]--;
            if
            :: known -> drop(d); GONE_WITH_ITS_HOLDER(d); d = NONE
            :: else -> GONE_WITH_ITS_HOLDER(d)
            fi
        };
        /* If that has left something open, the child lives on with it. */
        if
        :: d != NONE -> d_step { drop(d); d = NONE }
        :: else
        fi
    :: true ->                          /* no hook runs in this one */
#ifdef CHILD_RELEASES
        d_step { unlock(d) };
#endif
        d_step { excused[d]--; drop(d); d = NONE }
    fi
}

/* SIGKILL, at any moment. (What may happen at any moment may also happen after the end, so these need
 * no way to do nothing.) */
proctype Killer() {
    byte n;
end:
    do
    :: d_step { n < DEATHS -> killed[0] = true; n++ }
    :: d_step { n < DEATHS -> killed[1] = true; n++ }
#if PROCS > 2
    :: d_step { n < DEATHS -> killed[2] = true; n++ }
#endif
    od
}

/* Somebody who may do what only the owner of the directory can. */
proctype Outsider() {
    byte count, p, n;
end:
    do
    :: d_step { moves < MOVES && path != NONE -> path = NONE; moves++; invariants() }   /* rm */
    :: d_step { moves < MOVES && path != NONE && aside == NONE ->                       /* mv away */
            aside = path; path = NONE; moves++; invariants() }
    :: d_step { moves < MOVES && aside != NONE ->                                       /* mv back */
            path = aside; aside = NONE; moves++; invariants() }
    :: d_step { moves < MOVES && path != NONE -> create(); moves++; invariants() }      /* mv new over it */
    od
}

/* holder() reads /proc/locks, which is no step here. This is what it does not do: look by trying. */
proctype Query() {
end:
    d_step { path != NONE && lock_on[path] == NONE -> lock_on[path] = DESCRIPTIONS + 1; asking = true };
    d_step {
        if
        :: lock_on[1] == DESCRIPTIONS + 1 -> lock_on[1] = NONE
        :: else
        fi;
        asking = false
    }
}

init {
    byte n;
    atomic {
        do
        :: n < PROCS -> run Contender(n); run Helper(n); n++
        :: else -> break
        od;
        n = 0;
        do
        :: n < FORKS -> run Child(); n++
        :: else -> break
        od;
        run Killer();
#if MOVES > 0
        run Outsider();
#endif
#ifdef QUERY_LOCKS
        run Query()
#endif
    }
}

/* Every call ends, and so does every process (with weak fairness: nobody stands still for ever who
 * could go on). */
ltl everybody_ends { <> (finished == PROCS) }
