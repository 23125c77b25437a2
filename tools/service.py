#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
#
# service.py SOCKET: a host service that fails on demand, for `make vm SERVICE=` and tools/test-service. It speaks the wire
# format of core/src/wire/ with one guest, keeps its replicas in a dictionary and can neither place nor protect anything.
# What it is to do the guest says, a word a line, through the port kmirror.service of its virtio-serial device (SOCKET.port
# here), which gives each word back when it is in force:
#
#   normal    do as asked, with healing
#   no_heal   the same, but HEAL is not known (at the start)
#   lie       say that a frame is healed, and do nothing
#   flip      give back other bytes than were stored
#   rubbish   answer STORE with noise
#   hang      answer no STORE for some seconds
#   die       forget everything in the middle of the next STORE, and be nobody until the next word
#   dead      what `die` leaves: no session begins
#   gone      close the connection at the next STORE, and end
import array
import mmap
import os
import random
import select
import socket
import struct
import sys
import threading
import time

SLOTS = 2048
POOL, HEAL = 1 << 0, 1 << 2
HELLO, PLACE, HEAL_KIND, STORE, FETCH, DROP, STATUS = range(1, 8)
OK, KIND, INSTANCE, EMPTY, UNSUPPORTED = 0, 1, 5, 9, 12
# Replies of vhost-user, and requests that need none.
GET_FEATURES, GET_PROTOCOL, GET_QUEUES, GET_BASE, GET_CONFIG = 1, 15, 17, 11, 24
SET_MEMORY, SET_NUM, SET_ADDRESS, SET_BASE, SET_KICK = 5, 8, 9, 10, 12


# The words of the guest.
told = ['no_heal']


def connect(path):
    """A connection to QEMU, which may not have made the socket yet."""
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(path)
            return connection
        except OSError:
            connection.close()
            time.sleep(0.1)


def listen(port):
    for word in port.makefile():
        told.append(word.strip())
        port.sendall(word.encode())


class Memory:
    """The guest's memory, by guest-physical address and by QEMU's own."""

    def __init__(self, body, fds):
        self.regions = []
        for at, fd in enumerate(fds):
            guest, size, user, offset = struct.unpack_from('<QQQQ', body, 8 + 32 * at)
            self.regions.append((guest, size, user, offset, mmap.mmap(fd, size + offset)))
            os.close(fd)

    def guest(self, address, length):
        for guest, size, _, offset, memory in self.regions:
            if guest <= address and address + length <= guest + size:
                return memory, offset + address - guest
        raise ValueError(f'no memory at {address:#x}')

    def user(self, address):
        for _, size, user, offset, memory in self.regions:
            if user <= address < user + size:
                return memory, offset + address - user
        raise ValueError(f'no ring at {address:#x}')


class Service:
    """One instance of the service."""

    def __init__(self):
        self.instance = random.getrandbits(63)
        self.pool = {}

    def answer(self, request, memory):
        magic, _, kind, number, _, _, instance = struct.unpack_from('<4sHHQIIQ', request)
        assert magic == b'KMIR'
        body, mode = request[32:], told[-1]

        def reply(code, body=b''):
            head = struct.pack('<4sHHQIIQ', b'KMIR', 1, kind, number, len(body), code, self.instance)
            return head + body

        if mode == 'dead':
            return reply(UNSUPPORTED)
        if kind == HELLO:
            self.pool.clear()
            features = POOL | (0 if mode == 'no_heal' else HEAL)
            hello = struct.pack('<HHIQQQQ', 1, 0, 1, features, SLOTS, 1 << 30, 4096)
            return reply(OK, hello + struct.pack('<IIQ', 0, 1, 0) + bytes(15 * 16))
        if instance != self.instance:
            return reply(INSTANCE)
        if kind == STORE:
            if mode == 'gone':
                sys.exit()
            if mode == 'die':
                told.append('dead')
                self.__init__()
                return reply(INSTANCE)
            if mode == 'hang':
                time.sleep(4)
            if mode == 'rubbish':
                return os.urandom(32)
            slot, = struct.unpack_from('<Q', body)
            self.pool[slot] = body[8:16], body[16:]
            return reply(OK)
        if kind == FETCH:
            slot, = struct.unpack('<Q', body)
            if slot not in self.pool:
                return reply(EMPTY)
            stored, data = self.pool[slot]
            if mode == 'flip':
                data = data[:-1] + bytes([data[-1] ^ 1])
            return reply(OK, stored + data)
        if kind == DROP:
            slot, count = struct.unpack('<QQ', body)
            dropped = [self.pool.pop(at, None) for at in range(slot, slot + count)]
            return reply(OK, struct.pack('<Q', len(dropped) - dropped.count(None)))
        if kind == HEAL_KIND and mode != 'no_heal':
            address, = struct.unpack_from('<Q', body)
            if mode != 'lie':
                where, at = memory.guest(address, 4096)
                where[at:at + 4096] = bytes(4096)
            return reply(OK, struct.pack('<QQ', 4096, 0) + bytes(64))
        if kind == STATUS:
            return reply(OK, bytes(128))
        return reply(UNSUPPORTED if kind in (PLACE, HEAL_KIND) else KIND)


class Ring:
    """The split virtqueue."""

    def __init__(self):
        self.size = self.at = 0
        self.kick = self.address = None

    def run(self, service, memory):
        if not self.size or not self.address:
            return
        descriptors, used_ring, available = (memory.user(address) for address in self.address)
        while self.at != struct.unpack_from('<H', available[0], available[1] + 2)[0]:
            slot = available[1] + 4 + 2 * (self.at % self.size)
            head = struct.unpack_from('<H', available[0], slot)[0]
            request, writable, index, more = b'', [], head, True
            while more:
                address, length, flags, following = struct.unpack_from(
                    '<QIHH', descriptors[0], descriptors[1] + 16 * index)
                if flags & 2:
                    writable.append((address, length))
                else:
                    where, at = memory.guest(address, length)
                    request += where[at:at + length]
                index, more = following, flags & 1
            answer, done = service.answer(request, memory), 0
            for address, length in writable:
                part = answer[done:done + length]
                where, at = memory.guest(address, len(part))
                where[at:at + len(part)] = part
                done += len(part)
            self.at = (self.at + 1) % 65536
            ring, at = used_ring
            used = struct.unpack_from('<H', ring, at + 2)[0]
            struct.pack_into('<II', ring, at + 4 + 8 * (used % self.size), head, done)
            struct.pack_into('<H', ring, at + 2, (used + 1) % 65536)


def receive(connection):
    """A message of vhost-user: request, body, descriptors. None at its end."""
    data, control, _, _ = connection.recvmsg(12, socket.CMSG_SPACE(64))
    if len(data) < 12:
        return None
    fds = array.array('i')
    for level, kind, content in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[:len(content) // 4 * 4])
    request, _, size = struct.unpack('<III', data)
    body = b''
    while len(body) < size:
        body += connection.recv(size - len(body))
    return request, body, list(fds)


def serve(connection, service):
    memory, ring = None, Ring()

    def reply(request, body):
        connection.sendall(struct.pack('<III', request, 5, len(body)) + body)

    while True:
        waiting = [connection] + ([ring.kick] if ring.kick is not None else [])
        ready = select.select(waiting, [], [])[0]
        if ring.kick in ready:
            os.read(ring.kick, 8)
            ring.run(service, memory)
            continue
        message = receive(connection)
        if message is None:
            return
        request, body, fds = message
        if request == GET_FEATURES:
            reply(request, struct.pack('<Q', 1 << 30 | 1 << 32))
        elif request == GET_PROTOCOL:
            reply(request, struct.pack('<Q', 1 << 9))
        elif request == GET_QUEUES:
            reply(request, struct.pack('<Q', 1))
        elif request == SET_MEMORY:
            memory = Memory(body, fds)
        elif request == SET_NUM:
            ring.size = struct.unpack('<II', body)[1]
        elif request == SET_ADDRESS:
            ring.address = struct.unpack_from('<QQQ', body, 8)
        elif request == SET_BASE:
            ring.at = struct.unpack('<II', body)[1]
        elif request == GET_BASE:
            ring.kick = ring.address = None
            reply(request, struct.pack('<II', 0, ring.at))
        elif request == SET_KICK:
            ring.kick = fds[0] if fds else None
            ring.run(service, memory)
        elif request == GET_CONFIG:
            config = b'kmirrord' + struct.pack('<HHI', 1, 1, 0)
            offset, size = struct.unpack_from('<II', body)
            reply(request, body[:12] + config[offset:offset + size].ljust(size, b'\0'))


port = connect(sys.argv[1] + '.port')
threading.Thread(target=listen, args=[port], daemon=True).start()
serve(connect(sys.argv[1]), Service())
