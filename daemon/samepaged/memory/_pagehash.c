/*
 * Python bindings of _pagehash_kernel.h: they check every argument and release the GIL. The Python implementation with
 * equal results is in hashing.py; the typed signatures are in _pagehash.pyi.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>

#include <errno.h>
#include <stdio.h>

#include "_pagehash_kernel.h"

static bool
hold(PyObject *object, Py_buffer *view, int flags, const char *name)
{
    if (PyObject_GetBuffer(object, view, flags) == 0)
        return true;
    if (PyErr_ExceptionMatches(PyExc_BufferError)) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "%s must be contiguous%s", name, flags & PyBUF_WRITABLE ? " and writable" : "");
    }
    return false;
}

static bool
hold_uint64(PyObject *object, Py_buffer *view, int flags, const char *name)
{
    if (!hold(object, view, flags | PyBUF_ND | PyBUF_FORMAT, name))
        return false;
    const char *format = view->format ? view->format : "B";
    if (*format == '@' || *format == '=')
        format++;
    if (view->ndim == 1 && view->itemsize == 8 && (!strcmp(format, "L") || !strcmp(format, "Q")) &&
        (uintptr_t)view->buf % sizeof(uint64_t) == 0)
        return true;
    PyErr_Format(PyExc_TypeError, "%s must be an aligned array of uint64 with one dimension", name);
    PyBuffer_Release(view);
    return false;
}

static bool
check_page_size(Py_ssize_t page_size, Py_ssize_t most)
{
    if (page_size >= SMALLEST_PAGE && page_size <= most && (page_size & (page_size - 1)) == 0)
        return true;
    PyErr_Format(PyExc_ValueError, "a page size must be a power of two from %d to %zd, not %zd", SMALLEST_PAGE, most,
                 page_size);
    return false;
}

static bool
as_seed(PyObject *number, uint64_t *seed)
{
    *seed = PyLong_AsUnsignedLongLong(number);
    if (!PyErr_Occurred())
        return true;
    if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
        PyErr_Clear();
        PyErr_SetString(PyExc_ValueError, "a seed must be from 0 to 2**64 - 1");
    }
    return false;
}

static bool
check_addresses(const uint64_t *addresses, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (addresses[i] % HOST_PAGE == 0 && addresses[i] <= UINTPTR_MAX - HOST_PAGE)
            continue;
        char line[64];
        snprintf(line, sizeof line, "%#llx is not the address of a page", (unsigned long long)addresses[i]);
        PyErr_SetString(PyExc_ValueError, line);
        return false;
    }
    return true;
}

/* OSError selects its subclass (ProcessLookupError, PermissionError) only when it is called. */
static void
raise_unreadable(int why, int pid, uint64_t address)
{
    char line[160];
    snprintf(line, sizeof line, "cannot read process %d at %#llx: %s", pid, (unsigned long long)address, strerror(why));
    PyObject *error = PyObject_CallFunction(PyExc_OSError, "is", why, line);
    if (error) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
    }
}

static PyObject *
hash_buffer(PyObject *module, PyObject *args)
{
    PyObject *buffer_object, *out_object, *seed_object, *result = NULL;
    Py_buffer buffer, out;
    Py_ssize_t page_size;
    uint64_t seed;
    (void)module;

    if (!PyArg_ParseTuple(args, "OOnO:hash_buffer", &buffer_object, &out_object, &page_size, &seed_object) ||
        !as_seed(seed_object, &seed) || !check_page_size(page_size, PY_SSIZE_T_MAX))
        return NULL;
    if (!hold(buffer_object, &buffer, PyBUF_SIMPLE, "buffer"))
        return NULL;
    if (!hold_uint64(out_object, &out, PyBUF_WRITABLE, "out"))
        goto release_buffer;
    Py_ssize_t pages = out.len / 8;
    if (pages > buffer.len / page_size) {
        PyErr_Format(PyExc_ValueError, "%zd pages of %zd bytes exceed a buffer of %zd bytes", pages, page_size,
                     buffer.len);
        goto release_out;
    }
    Py_BEGIN_ALLOW_THREADS
    struct hashing hashing;
    prepare(&hashing, (size_t)page_size, seed);
    hash_pages(buffer.buf, out.buf, (size_t)pages, &hashing);
    Py_END_ALLOW_THREADS
    result = Py_NewRef(Py_None);
release_out:
    PyBuffer_Release(&out);
release_buffer:
    PyBuffer_Release(&buffer);
    return result;
}

static PyObject *
hash_process(PyObject *module, PyObject *args)
{
    PyObject *addresses_object, *out_object, *scratch_object, *seed_object, *result = NULL;
    Py_buffer addresses, out, scratch;
    Py_ssize_t page_size;
    uint64_t seed;
    int pid;
    (void)module;

    if (!PyArg_ParseTuple(args, "iOOOnO:hash_process", &pid, &addresses_object, &out_object, &scratch_object, &page_size,
                          &seed_object) ||
        !as_seed(seed_object, &seed) || !check_page_size(page_size, HOST_PAGE))
        return NULL;
    if (pid <= 0)
        return PyErr_Format(PyExc_ValueError, "%d is not the id of a process", pid);
    if (!hold_uint64(addresses_object, &addresses, 0, "addresses"))
        return NULL;
    if (!hold_uint64(out_object, &out, PyBUF_WRITABLE, "out"))
        goto release_addresses;
    if (!hold(scratch_object, &scratch, PyBUF_WRITABLE, "scratch"))
        goto release_out;
    Py_ssize_t count = addresses.len / 8, hashes_per_page = HOST_PAGE / page_size;
    if (scratch.len < HOST_PAGE) {
        PyErr_Format(PyExc_ValueError, "scratch must hold at least a page of %d bytes, not %zd", HOST_PAGE, scratch.len);
        goto release_scratch;
    }
    if (out.len / 8 / hashes_per_page != count || out.len / 8 % hashes_per_page != 0) {
        PyErr_Format(PyExc_ValueError, "%zd pages give %zd hashes each; out has room for %zd in all", count,
                     hashes_per_page, out.len / 8);
        goto release_scratch;
    }
    if (!check_addresses(addresses.buf, (size_t)count))
        goto release_scratch;
    size_t done;
    int why;
    Py_BEGIN_ALLOW_THREADS
    struct hashing hashing;
    prepare(&hashing, (size_t)page_size, seed);
    done = read_and_hash(pid, addresses.buf, (size_t)count, out.buf, scratch.buf, (size_t)scratch.len, &hashing);
    why = errno;
    Py_END_ALLOW_THREADS
    if (done == (size_t)count)
        result = Py_NewRef(Py_None);
    else
        raise_unreadable(why, pid, ((const uint64_t *)addresses.buf)[done]);
release_scratch:
    PyBuffer_Release(&scratch);
release_out:
    PyBuffer_Release(&out);
release_addresses:
    PyBuffer_Release(&addresses);
    return result;
}

static PyMethodDef methods[] = {
    {"hash_buffer", hash_buffer, METH_VARARGS, "hash_buffer(buffer, out, page_size, seed, /)"},
    {"hash_process", hash_process, METH_VARARGS, "hash_process(pid, addresses, out, scratch, page_size, seed, /)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_pagehash",
    .m_doc = "Page hashes at the speed of a memory copy; see hashing.py.",
    .m_size = 0,
    .m_methods = methods,
};

PyMODINIT_FUNC
PyInit__pagehash(void)
{
    choose_instructions();
    return PyModuleDef_Init(&definition);
}
