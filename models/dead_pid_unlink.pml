/*
 * Why session-lock deletes nothing and believes no PID: the usual protocol with a PID in the lock
 * file, where whoever reads the PID of a dead process deletes the file as stale. spin finds two
 * holders. `cargo test --test model` runs it; by hand:
 *
 *     spin -a models/dead_pid_unlink.pml && cc -DBFS -o pan pan.c && ./pan
 *     spin -t -B models/dead_pid_unlink.pml
 *
 * Every step is a system call that behaves as it should. The file is there from the start, unlocked,
 * with the PID of a process that died.
 */

#define PROCS 2
#define INODES 2
#define NONE 0
#define DEAD 99

byte path = 1;                  /* the inode that the lock file's path names */
byte pid_in[INODES + 1];        /* what is written in an inode */
byte lock_on[INODES + 1];       /* the process that has the lock on it */
byte holders;

proctype Contender(byte me) {
    byte inode;
    bool got;
end:
    do
    :: atomic {
            if
            :: path == NONE && pid_in[2] == NONE -> path = 2
            :: path != NONE
            fi;
            inode = path;
            printf("process %d opens the file: inode %d\n", me, inode)
        }
        atomic {
            got = (lock_on[inode] == NONE);
            if
            :: got ->
                lock_on[inode] = me;
                printf("process %d locks inode %d\n", me, inode); break
            :: else -> printf("process %d finds inode %d locked\n", me, inode)
            fi
        }
        atomic {
            if
            :: pid_in[inode] == DEAD ->
                printf("process %d reads the PID of a dead process in inode %d\n", me, inode)
            :: else -> printf("process %d gives up\n", me); goto out
            fi
        }
        atomic {
            printf("process %d deletes the file that it takes for stale\n", me);
            path = NONE
        }
    od;
    atomic {
        holders++;
        printf("process %d holds the lock, and writes its PID next\n", me);
        assert(holders == 1)
    }
    pid_in[inode] = me;
    atomic { holders--; lock_on[inode] = NONE };
out:
    skip
}

init {
    atomic { pid_in[1] = DEAD; run Contender(1); run Contender(2) }
}
